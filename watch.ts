/** The routes that watch: what JupyterLab does, what it logs, what happens to it, and the meters. */
import { Elysia } from "elysia";
import { ActivityAnswer, COMMON_ERRORS, documentAnswers } from "./answers.ts";
import type { Supervisor } from "./jupyter.ts";

/** Routes for an app whose hooks admit requests and write errors. */
export function watch(supervisor: Supervisor) {
  return new Elysia({ normalize: false }).get("/api/servers/activity", () => supervisor.activity(), {
    detail: {
      summary: "Show what JupyterLab does",
      description:
        "Kernels and terminals, whether one is at work, and how long nobody has used it. Asking is not activity.",
      tags: ["watching"],
      responses: documentAnswers({ 200: ["Now, or at most two seconds ago", ActivityAnswer] }, [...COMMON_ERRORS]),
    },
  });
}
