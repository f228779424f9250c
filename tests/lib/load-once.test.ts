/** Loading something when it is first needed. */
import { expect, test } from "bun:test";
import { loadOnce } from "../../lib/load-once.ts";

test("loads once for all calls, at the same time and later, and again after a failure", async () => {
  const attempts: PromiseWithResolvers<string>[] = [];
  const load = loadOnce(() => {
    const attempt = Promise.withResolvers<string>();
    attempts.push(attempt);
    return attempt.promise;
  });
  expect(attempts).toEqual([]);
  const failed = Promise.allSettled([load(), load()]);
  attempts[0]?.reject(new Error("no descriptor"));
  expect((await failed).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  const loads = [load(), load()];
  attempts[1]?.resolve("metrics");
  expect(await Promise.all([...loads, load()])).toEqual(["metrics", "metrics", "metrics"]);
  expect(attempts).toHaveLength(2);
});
