// Calls methods of mailpit-api: reads [method, ...arguments] as JSON lines, prints {result} or {error}.
// The first line that it prints has the names of all methods. Octets of a Blob are printed as base64.
import { createInterface } from "node:readline";
import { MailpitClient } from "mailpit-api";

const client = new MailpitClient(process.argv[2]);
const names = Object.getOwnPropertyNames(MailpitClient.prototype);
console.log(JSON.stringify(names.filter((name) => !["constructor", "request"].includes(name))));
for await (const line of createInterface({ input: process.stdin })) {
  const [method, ...words] = JSON.parse(line);
  try {
    const result = await client[method](...words);
    const blob = result instanceof Blob;
    console.log(JSON.stringify({ result: blob ? Buffer.from(await result.arrayBuffer()).toString("base64") : result }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
