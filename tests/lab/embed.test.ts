/** JupyterLab inside an iframe: in a real Chromium, for pages of other origins, and for no others. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHROMIUM, readOutput, runCell, TestBrowser, writeNotebook } from "../support/browser.ts";
import { makeCertificate } from "../support/certificate.ts";
import { type Json, PROJECT, PYTHON, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 180_000;
const ORIGIN = "https://portal.example.org";
const NOTEBOOK = { "default-url": "/lab/tree/cell.ipynb" };

/** A site with one page, which shows JupyterLab. */
class Site implements AsyncDisposable {
  #listener: ReturnType<typeof Bun.serve>;
  #scheme: string;
  shown = "";

  constructor(certificate?: { cert: string; key: string }) {
    this.#scheme = certificate ? "https" : "http";
    this.#listener = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      ...(certificate ? { tls: certificate } : {}),
      fetch: () =>
        new Response(`<iframe width="1200" height="700" src="${this.shown}"></iframe>`, {
          headers: { "content-type": "text/html" },
        }),
    });
  }

  originAt(host: string): string {
    return `${this.#scheme}://${host}:${this.#listener.port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#listener.stop(true);
  }
}

/** The headers of a running JupyterLab's page, its cookies, and what its page is told. */
async function look(server: Json): Promise<{ policy: string; cookies: string[]; headers: Headers; page: string }> {
  const response = await fetch(server.lab_url);
  const { headers } = response;
  const policy = headers.get("content-security-policy") ?? "";
  return { policy, cookies: headers.getSetCookie(), headers, page: await response.text() };
}

let api: TestServer;
beforeAll(async () => {
  api = await TestServer.start({ PYTHON, STANDBY: "armed", EMBED_ORIGINS: `${ORIGIN}, http://b.org:80` });
  api.prepare();
}, LIMIT_MS);
afterEach(() => api.stop());
afterAll(() => api[Symbol.asyncDispose]());

test(
  "EMBED_ORIGINS is the default, embed is in its place, and an armed start has it too",
  async () => {
    await api.standby(2);
    const armed = await api.start();
    expect(armed.body.start_kind).toBe("armed");
    const { policy, cookies, page } = await look(armed.body);
    expect(policy).toBe(`frame-ancestors 'self' http://b.org ${ORIGIN}; report-uri /api/security/csp-report`);
    expect(cookies.length).toBe(2);
    for (const cookie of cookies)
      expect(cookie).toMatch(/; Path=\/; SameSite=None; Secure$|; SameSite=None; Secure; Path=\/$/i);
    expect(page).toContain('"appendToken": true');
    await api.stop();
    const closed = await look((await api.start({ embed: [] })).body);
    expect(closed.policy).toStartWith("frame-ancestors 'self'; ");
    expect(closed.cookies.join()).not.toContain("SameSite=None");
    expect(closed.page).not.toContain("appendToken");
  },
  LIMIT_MS,
);

describe.skipIf(!CHROMIUM)("a page of another origin", () => {
  let browser: TestBrowser;
  beforeAll(async () => {
    browser = await TestBrowser.open();
    writeNotebook(api.env.NOTEBOOK_DIR ?? "", "cell.ipynb", "print(6 * 7)");
  }, LIMIT_MS);
  afterAll(() => browser[Symbol.asyncDispose]());

  /** Opens the site's page, and gives it and its frame. */
  const visit = async (site: Site, origin: string, shown: string) => {
    site.shown = shown;
    const page = await browser.context.newPage();
    await page.goto(origin);
    const frame = page.frames()[1];
    if (!frame) throw new Error("The page has no frame");
    return { page, frame };
  };

  test(
    "shows JupyterLab and runs a cell, over http, at 127.0.0.1 and at localhost, can do no more than show it, and can't show it at the one that was not named",
    async () => {
      await using near = new Site();
      await using far = new Site();
      const cases = [
        { site: near, origin: near.originAt("127.0.0.1"), other: near.originAt("localhost") },
        { site: far, origin: far.originAt("localhost"), other: far.originAt("127.0.0.1") },
      ];
      const { status, body } = await api.start({ embed: cases.map(({ origin }) => origin), ...NOTEBOOK });
      expect(status).toBe(201);
      for (const { site, origin, other } of cases) {
        const { page, frame } = await visit(site, origin, body.lab_url);
        await runCell(frame);
        expect(await readOutput(frame)).toBe("42");
        const read = page.evaluate((url) => fetch(url, { credentials: "include" }), `${body.url}api/contents`);
        expect(await read.catch((error: Error) => error.message)).toContain("Failed to fetch");
        await page.close();
        const refused = await visit(site, other, body.lab_url);
        // Chromium names its error page only after the page around it is said to be loaded.
        expect(await until("the frame's address", () => refused.frame.url())).toStartWith("chrome-error:");
        await refused.page.close();
      }
    },
    LIMIT_MS,
  );

  test(
    "shows JupyterLab and runs a cell over https, on another site, with cookies",
    async () => {
      const files = makeCertificate(api.folder, "IP:127.0.0.1,DNS:localhost");
      await using site = new Site({ cert: readFileSync(files.cert, "utf8"), key: readFileSync(files.key, "utf8") });
      const origin = site.originAt("localhost");
      const tls = { "ServerApp.certfile": files.cert, "ServerApp.keyfile": files.key };
      const { body } = await api.start({ embed: [origin], ...NOTEBOOK, ...tls });
      expect(body).toMatchObject({ state: "running", secure: true });
      const { page, frame } = await visit(site, origin, body.lab_url);
      await runCell(frame);
      expect(await readOutput(frame)).toBe("42");
      const cookies = await browser.context.cookies(body.url);
      expect(cookies.length).toBeGreaterThan(1);
      for (const cookie of cookies) expect(cookie).toMatchObject({ sameSite: "None", secure: true });
      // The cookies go with what the page itself sends, too: it must not be able to do anything by them.
      const post = { method: "POST", mode: "no-cors", credentials: "include", body: "{}" } as const;
      await page.evaluate(([url, init]) => fetch(url, init), [`${body.url}api/contents`, post] as const);
      const socket = `${body.url.replace("https", "wss")}api/events/subscribe`;
      const opened = page.evaluate((url) => {
        const { promise, resolve } = Promise.withResolvers<string>();
        const connection = new WebSocket(url);
        for (const type of ["open", "error"]) connection.addEventListener(type, () => resolve(type));
        return promise;
      }, socket);
      expect(await opened).toBe("error");
      expect(readdirSync(api.env.NOTEBOOK_DIR ?? "").filter((name) => !name.startsWith("."))).toEqual(["cell.ipynb"]);
      await page.close();
    },
    LIMIT_MS,
  );
});

test(
  "what a configuration file sets beside it stays, and PUBLIC_URL tells whether cookies go over https",
  async () => {
    const own = readFileSync(join(PROJECT, "jupyter_notebook_config.py"), "utf8");
    const theirs = {
      headers: { "X-Theirs": "kept", "Content-Security-Policy": "frame-ancestors *; img-src 'self'" },
      xsrf_cookie_kwargs: { SameSite: "Strict", domain: "example.org" },
      page_config_data: { theirs: "kept" },
    };
    const file = join(mkdtempSync(join(tmpdir(), "jupyter-config-")), "config.py");
    const settings = `c.ServerApp.tornado_settings = ${JSON.stringify(theirs)}`;
    writeFileSync(file, `${own}\n${settings}\nc.IdentityProvider.cookie_options = {"SameSite": "Lax"}\n`);
    await using other = await TestServer.start({ PYTHON, PUBLIC_URL: "https://lab.org", JUPYTER_CONFIG_FILE: file });
    const { body } = await other.start({ embed: ["http://portal"], "base-url": "/user/jo" });
    const address = `http://127.0.0.1:${body.port}/user/jo/lab?token=${body.token}`;
    const { policy, cookies, headers, page } = await look({ lab_url: address });
    expect(policy).toBe("frame-ancestors 'self' http://portal; img-src 'self'");
    expect(headers.get("x-theirs")).toBe("kept");
    expect(page).toContain('"theirs": "kept"');
    const [xsrf = "", login = ""] = ["_xsrf", "username"].map((name) =>
      cookies.find((cookie) => cookie.startsWith(name)),
    );
    for (const part of ["Path=/user/jo/", "Domain=example.org", "SameSite=None", "Secure"])
      expect(xsrf).toContain(part);
    for (const part of ["Path=/user/jo/", "SameSite=None", "Secure"]) expect(login).toContain(part);
  },
  LIMIT_MS,
);
