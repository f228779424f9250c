/** Requests as bytes, for what no client library sends. */
import { connect } from "node:net";

const ANSWER_LIMIT_MS = 30_000;

/**
 * Sends bytes, or lines, and then the end of the connection. Gives the first answer: its header and what came with it, or
 * what came before the other side's end.
 */
export function exchange(port: number, sent: Uint8Array | string[]): Promise<string> {
  return new Promise((settle, reject) => {
    let text = "";
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    const timer = setTimeout(() => reject(new Error(`no end of the connection after ${text}`)), ANSWER_LIMIT_MS);
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      const end = text.indexOf("\r\n\r\n") + 4;
      const length = Number(/^content-length: *(\d+)/im.exec(text)?.[1] ?? 0);
      // A keep-alive connection stays open after a whole answer.
      if (end > 3 && text.length >= end + length) socket.destroy();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      clearTimeout(timer);
      settle(text);
    });
    socket.end(Array.isArray(sent) ? Buffer.from(sent.join("\r\n"), "latin1") : sent);
  });
}
