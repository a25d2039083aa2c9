// An application that sends mail with Nodemailer: a person confirms an address by a code.
import { randomInt } from "node:crypto";
import { createTransport } from "nodemailer";

export async function signUp(address, smtp) {
  const code = String(randomInt(1_000_000)).padStart(6, "0");
  await createTransport({ ...smtp, ignoreTLS: true }).sendMail({
    from: "shop@example.org",
    to: address,
    subject: "Welcome",
    text: `Your code is ${code}.`,
  });
  return code;
}
