/** Faults of the disk: one that is full, one without inodes, and a folder that can't be written. */
import { mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { read } from "./helpers.ts";

const DISK_BYTES = 4 * 1024 * 1024;
const DISK_INODES = 600;

/** A folder on a small disk of its own, and another folder that can be locked. */
export class Disk implements Disposable {
  readonly #folder: string;
  readonly #lockable: string;
  readonly #isMounted: boolean;
  #isLocked = false;

  /** Mounts a small disk at `folder`, if this user may; its faults are skipped otherwise. */
  constructor(folder: string, lockable: string) {
    this.#folder = folder;
    this.#lockable = lockable;
    const size = `size=${DISK_BYTES},nr_inodes=${DISK_INODES}`;
    this.#isMounted = run("mount", "-t", "tmpfs", "-o", size, "tmpfs", folder);
    if (!this.#isMounted) console.warn("a small disk can't be mounted: full disks and missing inodes are skipped");
  }

  /** Fills the disk, or frees it. */
  fill(): void {
    const file = join(this.#folder, "filler");
    const isFull = read(file) !== "";
    rmSync(file, { force: true });
    if (!this.#isMounted || isFull) return;
    try {
      writeFileSync(file, Buffer.alloc(DISK_BYTES, "x"));
    } catch {
      // It is full.
    }
  }

  /** Takes all the inodes of the disk, or gives them back. */
  takeInodes(): void {
    const folder = join(this.#folder, "inodes");
    const isTaken = statSync(folder, { throwIfNoEntry: false }) !== undefined;
    rmSync(folder, { recursive: true, force: true });
    if (!this.#isMounted || isTaken) return;
    try {
      mkdirSync(folder);
      for (let number = 0; number < DISK_INODES; number += 1) writeFileSync(join(folder, String(number)), "");
    } catch {
      // They are taken.
    }
  }

  /** Makes the other folder one that can't be written, or takes that back. */
  lock(): void {
    if (this.#isLocked) {
      run("umount", "--lazy", this.#lockable);
      this.#isLocked = false;
      return;
    }
    if (!run("mount", "--bind", this.#lockable, this.#lockable)) return;
    this.#isLocked = true;
    run("mount", "-o", "remount,bind,ro", this.#lockable);
  }

  [Symbol.dispose](): void {
    if (this.#isLocked) this.lock();
    if (this.#isMounted) run("umount", "--lazy", this.#folder);
  }
}

const run = (...command: string[]) => Bun.spawnSync(command).exitCode === 0;
