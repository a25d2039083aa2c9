import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { after, before, test } from "node:test";
import { MailpitClient } from "mailpit-api";
import { signUp } from "./accounts.mjs";

const testbed = (...words) => execFileSync("testbed", words, { encoding: "utf8" });
let bed, smtp, url, inbox;

before(() => {
  bed = JSON.parse(testbed("up", "mail", "--name", `node-${process.pid}`, "--for", "10m", "--format", "json"));
  const ports = Object.fromEntries(bed.nodes.map((node) => [node.name, node.ports]));
  smtp = { host: "127.0.0.1", port: ports.relay["25/tcp"] };
  url = `http://127.0.0.1:${ports.inbox["8025/tcp"]}`;
  inbox = new MailpitClient(url);
});

after(() => bed && testbed("down", bed.id));

test("a new address gets a code", async () => {
  const address = `${randomUUID()}@example.com`;
  const code = await signUp(address, smtp);
  const message = await inbox.waitForMessage({ query: `to:${address} subject:Welcome` });
  assert.match(message.Text, new RegExp(`Your code is ${code}`));
});

test("the code arrives although the first attempt fails", async () => {
  const address = `${randomUUID()}@example.com`;
  const body = JSON.stringify({ to: address, then: "defer", times: 1 });
  const headers = { "Content-Type": "application/json" };
  assert.equal((await fetch(`${url}/api/rules`, { method: "POST", headers, body })).status, 201);
  await signUp(address, smtp);
  await inbox.waitForMessage({ query: `to:${address}` }, { timeout: 30_000 });
});
