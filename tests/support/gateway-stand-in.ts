/** A stand-in for a gateway, where a test has to see each request for its kernels, or to hold back the answer. */
import { randomUUID } from "node:crypto";

const SPECS = {
  default: "python3",
  kernelspecs: {
    python3: { name: "python3", spec: { argv: [], display_name: "", language: "python" }, resources: {} },
  },
};

/** Starts one. Its kernels are ids without processes. */
export function startGatewayStandIn() {
  const kernels = new Set<string>();
  /** Ids of the kernels that it was asked to delete, in this order. */
  const deleted: string[] = [];
  /** Requests without an answer, the most of them so far, and how many of them start a kernel. */
  const seen = { open: 0, mostOpen: 0, starting: 0 };
  /** The statuses of its next answers to a start, which makes the kernel all the same, and to a deletion, which does nothing. */
  const faults = { starts: [] as number[], deletions: [] as number[] };
  let starts = Promise.withResolvers<void>();
  starts.resolve();
  let deletions = Promise.withResolvers<void>();
  deletions.resolve();
  const show = (id: string) => ({
    id,
    name: "python3",
    execution_state: "idle",
    connections: 0,
    last_activity: "2026-01-01T00:00:00.000000Z",
  });
  async function answer(method: string, path: string): Promise<Response> {
    if (path === "/api/kernelspecs") return Response.json(SPECS);
    const id = path.split("/")[3];
    if (method === "POST" && !id) {
      seen.starting += 1;
      await starts.promise;
      seen.starting -= 1;
      const made = randomUUID();
      kernels.add(made);
      return Response.json(show(made), { status: faults.starts.shift() ?? 201 });
    }
    if (!id) return Response.json([...kernels].map(show));
    if (method === "DELETE") {
      deleted.push(id);
      // Those that have been sent by now are open at the same time.
      await new Promise((settle) => setImmediate(settle));
      await deletions.promise;
      const status = faults.deletions.shift();
      if (status) return new Response(null, { status });
      return new Response(null, { status: kernels.delete(id) ? 204 : 404 });
    }
    return kernels.has(id) ? Response.json(show(id)) : new Response(null, { status: 404 });
  }
  const listener = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch({ method, url }) {
      seen.open += 1;
      seen.mostOpen = Math.max(seen.mostOpen, seen.open);
      try {
        return await answer(method, new URL(url).pathname);
      } finally {
        seen.open -= 1;
      }
    },
  });
  return {
    url: `http://127.0.0.1:${listener.port}`,
    kernels,
    deleted,
    seen,
    faults,
    /** Lets starts of kernels wait, until the function that it gives is called. */
    holdStarts() {
      starts = Promise.withResolvers<void>();
      return starts.resolve;
    },
    /** The same for deletions. */
    holdDeletions() {
      deletions = Promise.withResolvers<void>();
      return deletions.resolve;
    },
    [Symbol.asyncDispose]: () => listener.stop(true),
  };
}
