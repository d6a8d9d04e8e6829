// Preloaded into a process: counts and records the calls that change files below a folder, and
// lets some of them fail, or kills the process at one.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[4096];
static char kinds[256];          // calls that count, each between spaces; all where it is empty
static long fail_from, fail_to;  // numbers of the calls that fail: from, to but without the last
static int failure;              // errno, or 0 to kill the process
static atomic_long n_calls;
static FILE *record;

void arm(const char *folder, const char *which, long from, long to, int error, const char *log) {
  snprintf(root, sizeof root, "%s", folder);
  snprintf(kinds, sizeof kinds, "%s", which);
  fail_from = from;
  fail_to = to;
  failure = error;
  n_calls = 0;
  record = *log ? fopen(log, "w") : NULL;
}

long disarm(void) {
  *root = 0;
  if (record) fclose(record);
  record = NULL;
  return n_calls;
}

static int fails(const char *kind, const char *path, const char *second) {
  size_t length = strlen(root);
  if (!length || strncmp(path, root, length) != 0) return 0;
  char word[32];
  snprintf(word, sizeof word, " %s ", kind);
  if (*kinds && !strstr(kinds, word)) return 0;
  if (record) fprintf(record, "%s\t%s\t%s\n", kind, path, second ? second : "");
  long number = atomic_fetch_add(&n_calls, 1);
  if (number < fail_from || number >= fail_to) return 0;
  if (!failure) raise(SIGKILL);
  errno = failure;
  return 1;
}

// Writes the path of an open file; returns 0 if there is none.
static int find(int fd, char *path, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, size - 1);
  path[n < 0 ? 0 : n] = 0;
  return n > 0;
}

static int fails_at(const char *kind, int fd) {
  char path[4096];
  return *root && find(fd, path, sizeof path) && fails(kind, path, NULL);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                        \
  int name(const char *path, int flags, ...) {                            \
    mode_t mode = 0;                                                      \
    if (flags & O_CREAT) {                                                \
      va_list rest;                                                       \
      va_start(rest, flags);                                              \
      mode = va_arg(rest, mode_t);                                        \
      va_end(rest);                                                       \
    }                                                                     \
    const char *kind = flags & O_CREAT && access(path, F_OK) ? "create" : "open"; \
    if ((flags & O_ACCMODE) != O_RDONLY && fails(kind, path, NULL)) return -1; \
    return REAL(name)(path, flags, mode);                                 \
  }
OPEN(open)
OPEN(open64)

// A write that needs no room on the disk is one over what is there.
static const char *write_kind(int fd, off64_t end) {
  struct stat64 status;
  return fstat64(fd, &status) == 0 && end <= status.st_size ? "overwrite" : "write";
}

#define ON_FILE(kind, result, name, parameters, arguments)   \
  result name parameters {                                   \
    if (fails_at(kind, fd)) return -1;                       \
    return REAL(name) arguments;                             \
  }
ON_FILE("write", ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n))
ON_FILE("write", ssize_t, writev, (int fd, const struct iovec *data, int n), (fd, data, n))
ON_FILE(write_kind(fd, at + (off64_t)n), ssize_t, pwrite,
        (int fd, const void *data, size_t n, off_t at), (fd, data, n, at))
ON_FILE(write_kind(fd, at + (off64_t)n), ssize_t, pwrite64,
        (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at))
ON_FILE("write", ssize_t, sendfile, (int fd, int from, off_t *at, size_t n), (fd, from, at, n))
ON_FILE("write", ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t n), (fd, from, at, n))
ON_FILE("size", int, ftruncate, (int fd, off_t n), (fd, n))
ON_FILE("size", int, ftruncate64, (int fd, off64_t n), (fd, n))
ON_FILE("reserve", int, fallocate, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
ON_FILE("reserve", int, fallocate64, (int fd, int mode, off64_t at, off64_t n), (fd, mode, at, n))
ON_FILE("flush", int, fsync, (int fd), (fd))
ON_FILE("flush", int, fdatasync, (int fd), (fd))

// A close that fails has closed, and what was written may be lost.
int close(int fd) {
  int writes = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
  int failed = writes && fails_at("close", fd), error = errno;
  int result = REAL(close)(fd);
  if (!failed) return result;
  errno = error;
  return -1;
}

#define ON_PATH(kind, name, parameters, arguments) \
  int name parameters {                            \
    if (fails(kind, path, NULL)) return -1;        \
    return REAL(name) arguments;                   \
  }
ON_PATH("mkdir", mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH("remove", unlink, (const char *path), (path))
ON_PATH("remove", rmdir, (const char *path), (path))

int unlinkat(int folder, const char *name, int flags) {
  char path[4096], whole[8192];
  if (*root && folder != AT_FDCWD && find(folder, path, sizeof path))
    snprintf(whole, sizeof whole, "%s/%s", path, name);
  else
    snprintf(whole, sizeof whole, "%s", name);
  return fails("remove", whole, NULL) ? -1 : REAL(unlinkat)(folder, name, flags);
}

int rename(const char *path, const char *to) {
  return fails("rename", path, to) ? -1 : REAL(rename)(path, to);
}
int renameat2(int a, const char *path, int b, const char *to, unsigned flags) {
  return fails("rename", path, to) ? -1 : REAL(renameat2)(a, path, b, to, flags);
}
