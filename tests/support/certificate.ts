/** Certificates that nobody knows. */
import { join } from "node:path";

/** Makes a certificate and its key in a folder, for names such as `IP:127.0.0.1,DNS:localhost`, and gives their paths. */
export function makeCertificate(folder: string, names: string): { cert: string; key: string } {
  const files = { cert: join(folder, "certificate.pem"), key: join(folder, "key.pem") };
  const kind = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test".split(" ");
  const paths = ["-keyout", files.key, "-out", files.cert];
  const made = Bun.spawnSync(["openssl", "req", "-x509", ...kind, "-addext", `subjectAltName=${names}`, ...paths]);
  if (made.exitCode !== 0) throw new Error(made.stderr.toString());
  return files;
}
