/* What users of network file systems have: no locks (ENOLCK) and no hard links (EPERM). For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/file.h>
#include <unistd.h>

static int fail(int code) {
  errno = code;
  return -1;
}

int flock(int descriptor, int operation) {
  (void)descriptor;
  return operation & LOCK_UN ? 0 : fail(ENOLCK);
}

int link(const char *from, const char *to) {
  (void)from, (void)to;
  return fail(EPERM);
}

int linkat(int folder, const char *from, int other, const char *to, int flags) {
  (void)folder, (void)from, (void)other, (void)to, (void)flags;
  return fail(EPERM);
}

static int fcntl_by(const char *name, int descriptor, int command, void *argument) {
  int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
  switch (command) {
  case F_SETLK:
  case F_SETLKW:
  case F_OFD_SETLK:
  case F_OFD_SETLKW:
    return fail(ENOLCK);
  default:
    return next(descriptor, command, argument);
  }
}

int fcntl(int descriptor, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  return fcntl_by("fcntl", descriptor, command, argument);
}

int fcntl64(int descriptor, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  return fcntl_by("fcntl64", descriptor, command, argument);
}
