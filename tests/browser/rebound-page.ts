/** DNS rebinding in a real Chromium: the page of a name that an attacker points at the control API. */
import { expect, test } from "bun:test";
import { TestBrowser } from "../support/browser.ts";
import { TestServer } from "../support/test-server.ts";
import { LIMIT_MS } from "./use-browser.ts";

const FLAGS = [
  "--host-resolver-rules=MAP rebind.evil.test 127.0.0.1",
  // Newer versions ask the person before a public page may reach a local address. The attack is one on those that don't.
  "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
];

export function testReboundPage(): void {
  test(
    "reads no server and starts none, until ALLOWED_HOSTS names it",
    async () => {
      await using api = await TestServer.start();
      await using other = await TestServer.start({ ALLOWED_HOSTS: "rebind.evil.test" });
      for (const one of [api, other]) expect((await one.start()).status).toBe(201);
      await using browser = await TestBrowser.open(FLAGS);
      const page = await browser.context.newPage();
      // What the attacker's own server answered before the name was pointed elsewhere.
      await page.route("**/attack", (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html>" }));
      const attack = async (one: TestServer) => {
        await page.goto(`http://rebind.evil.test:${one.env.PORT}/attack`);
        return page.evaluate(async () => {
          const [read, start] = [await fetch("/api/servers/"), await fetch("/api/servers/", { method: "POST" })];
          return { status: [read.status, start.status], text: (await read.text()) + (await start.text()) };
        });
      };
      const refused = await attack(api);
      expect(refused.status).toEqual([403, 403]);
      // A person reads what to do, and finds no link that is refused as well.
      await using proxy = await TestServer.start({ PROXY: "true" });
      for (const address of [`${api.env.PORT}/`, `${api.env.PORT}/docs`, `${proxy.env.PORT}/lab`]) {
        expect((await page.goto(`http://rebind.evil.test:${address}`))?.status()).toBe(403);
        await page.getByText("Whoever runs it can allow this name with ALLOWED_HOSTS.").waitFor();
        expect(await page.getByRole("link").count()).toBe(0);
      }
      expect(refused.text).not.toContain((await api.show()).body.token);
      expect((await attack(other)).status).toEqual([200, 200]);
    },
    LIMIT_MS,
  );
}
