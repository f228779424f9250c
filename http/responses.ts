/** What a route answers: for the OpenAPI document, and as the types of a typed client. */
import type { TSchema, TUnsafe } from "@sinclair/typebox";
import { type ErrorCode, type Problem, ServiceError, STATUS_BY_CODE, toProblem } from "../lib/errors.ts";
import { ProblemAnswer } from "./schemas.ts";

/** An answer as OpenAPI has it. */
export interface Media<Schema extends TSchema = TSchema> {
  description: string;
  content: Record<string, { schema: Schema; example?: unknown }>;
  headers?: Record<string, { description: string; schema: { type: "string" } }>;
}

/** Answers by status: a description and the schema of its JSON, or an answer of another media type. */
type Answers = Record<number, [string, TSchema] | Media>;

declare const SCHEMAS: unique symbol;
/** OpenAPI `responses`. The schemas of the bodies by status are there for the compiler alone. */
type Responses<Schemas = unknown> = Record<number, Media> & { [SCHEMAS]?: Schemas };

type StatusOf<Code extends ErrorCode> = (typeof STATUS_BY_CODE)[Code];
type CodeOf<Status> = { [Code in ErrorCode]: StatusOf<Code> extends Status ? Code : never }[ErrorCode];

type SchemasOf<Documented extends Answers, Code extends ErrorCode> = {
  [Status in keyof Documented]: Documented[Status] extends [string, infer Schema] | Media<infer Schema>
    ? Schema
    : never;
} & {
  // Elysia's types give 422 to every route, with a body that is never sent.
  [Status in StatusOf<Code> | 422]: TUnsafe<Problem<Code & CodeOf<Status>>>;
};

const CHALLENGE: NonNullable<Media["headers"]> = {
  "WWW-Authenticate": { description: "The authentication scheme: `Bearer`.", schema: { type: "string" } },
};

/** OpenAPI `responses`: the answers by status, and the errors by code. */
export function documentResponses<const Documented extends Answers, const Code extends ErrorCode = never>(
  answers: Documented,
  codes: readonly Code[],
): Responses<SchemasOf<Documented, Code>> {
  const documented: Record<number, Media> = {};
  for (const [status, answer] of Object.entries(answers)) {
    documented[Number(status)] = Array.isArray(answer)
      ? { description: answer[0], content: { "application/json": { schema: answer[1] } } }
      : answer;
  }
  for (const code of codes) {
    const status = STATUS_BY_CODE[code];
    const description = [documented[status]?.description, code].filter(Boolean).join(", ");
    const content = {
      "application/problem+json": {
        schema: ProblemAnswer,
        // Made when the document is, because a problem's title loads `node:http`.
        get example() {
          return toProblem(new ServiceError(code, "The thing, the rule and the value"), false);
        },
      },
    };
    documented[status] = { description, content, ...(code === "unauthorized" ? { headers: CHALLENGE } : {}) };
  }
  return documented;
}

/**
 * The route, unchanged, with a type that has its answers': the compiler checks the handler against them, and they make the
 * typed client. With a real `response` Elysia would check each answer as it is sent.
 */
export function withResponseTypes<Route extends { detail: { responses: Responses } }>(route: Route) {
  return route as Route & { response: NonNullable<Route["detail"]["responses"][typeof SCHEMAS]> };
}
