/** Other ends of a control API's sockets: idle and slow clients, a gateway that hangs, and whoever has JupyterLab's port. */
import { connect, createServer, type Server, type Socket } from "node:net";

const HELD_CONNECTIONS = 100;
const MAX_SLOW_CLIENTS = 10;

/** The peers of one control API. */
export class Peers implements Disposable {
  readonly #port: number;
  readonly #jupyterPort: number;
  #slow = new Set<Socket>();
  #held = new Set<Socket>();
  #occupant: Server | undefined;
  #hanging: Server | undefined;

  constructor(port: number, jupyterPort: number) {
    this.#port = port;
    this.#jupyterPort = jupyterPort;
  }

  /** Connections that are open. */
  get count(): number {
    return this.#slow.size + this.#held.size;
  }

  /** Takes JupyterLab's port, or gives it back. Nothing where somebody else has it. */
  async occupyPort(): Promise<void> {
    if (this.#occupant) {
      this.#occupant.close();
      this.#occupant = undefined;
      return;
    }
    const occupant = createServer((socket) => socket.destroy());
    this.#occupant = await new Promise((settle) => {
      occupant.once("error", () => settle(undefined));
      occupant.listen(this.#jupyterPort, "127.0.0.1", () => settle(occupant));
    });
  }

  /** Holds connections that ask nothing, or closes them. */
  holdConnections(isUp: boolean): void {
    if (this.#held.size > 0 || !isUp) {
      closeAll(this.#held);
      return;
    }
    for (let number = 0; number < HELD_CONNECTIONS; number += 1) this.#held.add(this.connect());
  }

  /** A client that begins a request and never ends it, or goes away in the middle. */
  openSlowClient(isUp: boolean): void {
    if (!isUp || this.#slow.size > MAX_SLOW_CLIENTS) {
      closeAll(this.#slow);
      return;
    }
    const socket = this.connect();
    socket.write(
      "POST /api/servers/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    );
    this.#slow.add(socket);
  }

  /** A connection to the control API. Nobody is told of its errors. */
  connect(): Socket {
    const socket = connect({ port: this.#port, host: "127.0.0.1" });
    return socket.on("error", () => {});
  }

  /** The address of a gateway that takes connections and never answers. */
  async hangingGateway(): Promise<string> {
    this.#hanging ??= await new Promise<Server>((settle) => {
      const server: Server = createServer(() => {}).listen(0, "127.0.0.1", () => settle(server));
    });
    const address = this.#hanging.address();
    return `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`;
  }

  [Symbol.dispose](): void {
    closeAll(this.#slow);
    closeAll(this.#held);
    this.#occupant?.close();
    this.#hanging?.close();
  }
}

function closeAll(sockets: Set<Socket>): void {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
}
