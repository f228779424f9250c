/** Schemas of JupyterLab's activity and of its gateway, with the types that follow from them. */
import { type Static, type TSchema, Type } from "@sinclair/typebox";

export const Nullable = <T extends TSchema>(schema: T, description?: string) =>
  Type.Union([schema, Type.Null()], description ? { description } : {});

/** One of some words, as an `enum`: a union of constants takes many times its length in the OpenAPI document. */
export const OneOf = <const Word extends string>(words: readonly Word[]) =>
  Type.Unsafe<Word>({ type: "string", enum: [...words] });

/** Every state of the lifecycle. */
export const STATES = ["stopped", "starting", "running", "stopping", "failed"] as const;

/** What a gateway said when it was last asked. */
export type GatewayStatus = Static<typeof GatewayStatus>;
export const GatewayStatus = Type.Object({
  url: Type.String(),
  reachable: Type.Boolean({ description: "Whether it answered at all." }),
  status: Nullable(Type.Integer(), "HTTP status of its answer."),
  kernelspecs: Nullable(Type.Array(Type.String()), "Names of its kernelspecs."),
  error: Nullable(Type.String(), "Why kernels can't run there."),
});

/** `GET /api/servers/activity`. */
export type Activity = Static<typeof Activity>;
export const Activity = Type.Object(
  {
    state: OneOf(STATES),
    busy: Type.Boolean({
      description:
        "Whether a kernel, a terminal, or a transfer through the proxy is working; also true if that is not known.",
    }),
    idle_seconds: Type.Number({
      description: "Seconds since the last activity; 0 while busy, and when no JupyterLab runs.",
    }),
    last_activity: Nullable(
      Type.String({ format: "date-time" }),
      "Time of the last activity; null when no JupyterLab runs.",
    ),
    connections: Type.Integer({ description: "Open websockets to kernels." }),
    kernels: Type.Array(
      Type.Object({
        id: Type.String(),
        name: Type.String(),
        state: Type.String({ description: "Jupyter's execution_state: idle, busy, starting, …" }),
        last_activity: Type.String({ format: "date-time" }),
        connections: Type.Integer(),
      }),
    ),
    terminals: Type.Array(
      Type.Object({
        name: Type.String(),
        last_activity: Type.String({ format: "date-time", description: "When it last wrote output." }),
        busy: Type.Boolean({
          description:
            "Whether a program is in its foreground, or a process of it used processor time since the last check.",
        }),
      }),
    ),
    unknown: Nullable(Type.String(), "What could not be determined, which counts as busy; null if everything was."),
  },
  {
    examples: [
      {
        state: "running",
        busy: true,
        idle_seconds: 0,
        last_activity: "2026-11-24T12:35:10.000Z",
        connections: 1,
        kernels: [
          {
            id: "7a1f3b52-31f5-4a27-a2cc-7e0d3b1f9c55",
            name: "python3",
            state: "busy",
            last_activity: "2026-11-24T12:35:09.120Z",
            connections: 1,
          },
        ],
        terminals: [],
        unknown: null,
      },
    ],
  },
);
