/** The relay between the two ends of a websocket, a browser's and JupyterLab's, on Bun and on Deno. */
import { CONNECTION, IS_DENO, removeHopByHop } from "./exchange.ts";

/** One end. What is optional exists on Bun only. */
interface End {
  send(message: string | ArrayBuffer | Uint8Array): unknown;
  close(code?: number, reason?: string): void;
  ping?(data?: Uint8Array): unknown;
  pong?(): void;
  terminate?(): void;
  pause?(): void;
  resume?(): void;
}
/** A browser's end. */
type BrowserEnd = End & { data: Relay; getBufferedAmount(): number };
type LabEnd = End & WebSocket;
type Message = string | ArrayBuffer | Uint8Array;

declare const Deno: {
  upgradeWebSocket(request: Request, options: object): { socket: WebSocket; response: Response };
};
/** What a browser may offer as a websocket's protocol (RFC 9110). */
const TOKEN = /^[!#$%&'*+.^_`|~\w-]+$/;
/** A kernel's websocket, and the only protocol that JupyterLab can choose for it. */
const KERNEL_CHANNELS = /\/api\/kernels\/[^/?]+\/channels(\?|$)/;
const KERNEL_PROTOCOL = "v1.kernel.websocket.jupyter.org";
/** Each end makes its own handshake. */
const HANDSHAKE = ["key", "version", "extensions", "protocol", "accept"].map((name) => `sec-websocket-${name}`);
/** Reading from one end stops while more than this waits for the other. */
const HIGH_BYTES = 1024 * 1024;
/** On Deno reading can't be stopped: a websocket is closed, with this code, when more than this waits for its browser. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;
const TOO_SLOW = 4013;
/** Bun does not say when JupyterLab's end has taken what waited for it. */
const DRAIN_CHECK_MS = 5;
/** An end that is not read answers no ping, and JupyterLab closes a websocket after 90 s without an answer. */
const PONG_PAUSE_MS = 20_000;
/** Longer than JupyterLab waits for a kernel before it accepts. Bun's client waits for two minutes of silence at most. */
const CONNECT_TIMEOUT_MS = 300_000;
/** On Deno, for a browser that has gone before its end was open. */
const OPEN_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 10_000;
/** Bun's handler of the browsers' ends. */
export const websocket = {
  // JupyterLab's pings are passed on every 30 s. A browser that takes nothing for this long is disconnected.
  idleTimeout: 120,
  maxPayloadLength: 128 * 1024 * 1024,
  // Nothing is dropped: reading from JupyterLab stops instead.
  backpressureLimit: 0,
  open: (end: BrowserEnd) => end.data.open(end),
  message: (end: BrowserEnd, message: string | Uint8Array) => end.data.receive(end, message),
  drain: (end: BrowserEnd) => end.data.drain(),
  close: (end: BrowserEnd, code: number, reason: string) => end.data.close(code, reason),
};

/** Hands messages, pings and the close from one end to the other, as fast as it takes them. */
export class Relay {
  /** Resolves once JupyterLab has accepted the websocket; with its refusal if it has not. */
  readonly accepted: Promise<string | undefined>;
  #lab: LabEnd;
  #browser: BrowserEnd | undefined;
  /** Messages from before the browser's end was open. */
  #early: Message[] = [];
  #earlyBytes = 0;
  #closed: { code: number; reason: string } | undefined;
  #ponging: ReturnType<typeof setInterval> | undefined;
  #draining: ReturnType<typeof setInterval> | undefined;
  #count: (change: 1 | -1) => void;

  /** Connects to JupyterLab. `count` gets 1 when a browser is connected, and -1 when it has gone. */
  constructor(address: string, init: object, signal: AbortSignal, count: (change: 1 | -1) => void) {
    const lab = new WebSocket(address, init as unknown as string[]) as LabEnd;
    const { promise, resolve } = Promise.withResolvers<string | undefined>();
    const timer = setTimeout(() => resolve("it did not answer"), CONNECT_TIMEOUT_MS);
    const leave = () => resolve("the browser has gone");
    signal.addEventListener("abort", leave, { once: true });
    this.accepted = promise.finally(() => {
      clearTimeout(timer);
      signal.removeEventListener("abort", leave);
    });
    this.#lab = lab;
    this.#count = count;
    lab.binaryType = "arraybuffer";
    lab.onopen = () => resolve(undefined);
    lab.onerror = (event) => resolve((event as ErrorEvent).message || "it did not answer");
    lab.onmessage = ({ data }) => this.#deliver(data);
    // What is between this program and the browser may close a connection that is silent for longer than these.
    lab.addEventListener("ping" as "message", ({ data }) => void this.#browser?.ping?.(data));
    // It may come before the browser's end is open.
    lab.onclose = ({ code, reason }) => {
      resolve("it closed the connection");
      this.#closed = { code, reason };
      this.#stopTimers();
      if (this.#browser) endWith(this.#browser, code, reason);
    };
    lab.pause?.();
  }

  get protocol(): string {
    return this.#lab.protocol;
  }

  open(browser: BrowserEnd): void {
    this.#browser = browser;
    this.#count(1);
    for (const message of this.#early.splice(0)) this.#deliver(message);
    if (this.#closed) endWith(browser, this.#closed.code, this.#closed.reason);
    else if (!this.#ponging) this.#lab.resume?.();
  }

  #deliver(message: Message): void {
    if (this.#browser) {
      this.#browser.send(message);
      this.#limit(this.#browser.getBufferedAmount());
      return;
    }
    this.#early.push(message);
    this.#earlyBytes += typeof message === "string" ? message.length : message.byteLength;
    this.#limit(this.#earlyBytes);
  }

  #limit(waitingBytes: number): void {
    if (waitingBytes <= HIGH_BYTES) return;
    if (!this.#lab.pause) {
      if (waitingBytes <= MAX_WAITING_BYTES) return;
      if (this.#browser) endWith(this.#browser, TOO_SLOW, "The browser is too slow");
      this.close(1005, "");
    } else if (!this.#ponging) {
      this.#lab.pause();
      this.#ponging = setInterval(() => this.#lab.pong?.(), PONG_PAUSE_MS);
    }
  }

  /** The browser has taken all that waited for it. */
  drain(): void {
    clearInterval(this.#ponging);
    this.#ponging = undefined;
    this.#lab.resume?.();
  }

  /** A message of the browser. */
  receive(browser: BrowserEnd, message: Message): void {
    const lab = this.#lab;
    lab.send(message as string);
    if (lab.bufferedAmount < HIGH_BYTES || !browser.pause || this.#draining) return;
    browser.pause();
    this.#draining = setInterval(() => {
      if (lab.bufferedAmount > HIGH_BYTES / 2 && lab.readyState === WebSocket.OPEN) return;
      clearInterval(this.#draining);
      this.#draining = undefined;
      browser.resume?.();
    }, DRAIN_CHECK_MS);
  }

  /** The browser has gone, or never came. */
  close(code: number, reason: string): void {
    if (this.#browser) this.#count(-1);
    this.#browser = undefined;
    this.#stopTimers();
    this.#early = [];
    const lab = this.#lab;
    lab.onmessage = null;
    if (lab.readyState === WebSocket.CLOSED) return;
    // An end that is not read would not see the other side's close.
    lab.resume?.();
    endWith(lab, code, reason);
    const timer = setTimeout(() => lab.terminate?.(), CLOSE_TIMEOUT_MS);
    (timer as { unref?: () => void }).unref?.();
    lab.onclose = () => clearTimeout(timer);
  }

  #stopTimers(): void {
    clearInterval(this.#ponging);
    clearInterval(this.#draining);
    this.#ponging = this.#draining = undefined;
  }
}

/** Closes one end as the other was closed. 1005 is no code, 1006 (on Deno 0) is an end without a close. */
function endWith(end: End, code: number, reason: string): void {
  try {
    if ([0, 1006, 1015].includes(code) && end.terminate) end.terminate();
    else if (code < 1000 || [1005, 1006, 1015].includes(code)) end.close();
    else end.close(code, reason);
  } catch {
    // Deno's client allows few codes.
    end.close();
  }
}

/** Asks JupyterLab for a websocket. Returns the relay that waits for its browser, or the status of the refusal. */
export async function connect(
  address: string,
  given: Headers,
  offered: string[],
  signal: AbortSignal,
  count: (change: 1 | -1) => void,
): Promise<Relay | number> {
  // The runtimes' clients throw at any other, and compare them without case.
  const distinct = new Set(offered.filter((name) => TOKEN.test(name)).map((name) => name.toLowerCase()));
  if (distinct.size < offered.length) return 400;
  // JupyterLab sends what it has kept for a kernel's reconnecting client after the first handshake: there must be no second.
  const protocols = KERNEL_CHANNELS.test(address) ? offered.filter((name) => name === KERNEL_PROTOCOL) : offered;
  const headers = removeHopByHop(given);
  // The body of a handshake is not sent on.
  for (const name of [...HANDSHAKE, "content-length"]) headers.delete(name);
  // Deno's client can't say another `Host`: an origin that agreed with it has to agree with the one that it says.
  if (IS_DENO && URL.parse(headers.get("origin") ?? "")?.host === headers.get("host"))
    headers.set("origin", new URL(address).origin);
  const init = { ...CONNECTION, headers: Object.fromEntries(headers), protocols, perMessageDeflate: false };
  const relay = new Relay(address.replace(/^http/, "ws"), init, signal, count);
  const refusal = await relay.accepted;
  if (refusal === undefined) return relay;
  relay.close(1006, "");
  // Bun's client refuses a server that takes none of the protocols. The browser decides that for itself.
  if (protocols.length > 0 && /client protocol/.test(refusal)) return connect(address, headers, [], signal, count);
  return Number(/status code: (\d{3})/.exec(refusal)?.[1] ?? 502);
}

/** Deno's way to accept a browser's end. It does not report a browser that disconnects during the handshake. */
export function acceptOnDeno(request: Request, relay: Relay): Response {
  const protocol = relay.protocol ? { protocol: relay.protocol } : {};
  let upgrade: { socket: WebSocket; response: Response };
  try {
    upgrade = Deno.upgradeWebSocket(request, { idleTimeout: websocket.idleTimeout, ...protocol });
  } catch {
    // The browser's handshake lacks something.
    relay.close(1006, "");
    return new Response(null, { status: 400 });
  }
  const { socket, response } = upgrade;
  socket.binaryType = "arraybuffer";
  const end = Object.assign(socket, { data: relay, getBufferedAmount: () => socket.bufferedAmount });
  const absent = setTimeout(() => relay.close(1006, ""), OPEN_TIMEOUT_MS);
  socket.onopen = () => {
    clearTimeout(absent);
    relay.open(end as unknown as BrowserEnd);
  };
  socket.onmessage = ({ data }) => relay.receive(end as unknown as BrowserEnd, data);
  socket.onclose = ({ code, reason }) => {
    clearTimeout(absent);
    relay.close(code, reason);
  };
  return response;
}
