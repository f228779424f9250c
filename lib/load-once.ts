/**
 * A function that loads something when it is first called, and gives the same from then on. After a failure, such as of an
 * import without a free descriptor, the next call loads again.
 */
export function loadOnce<T>(load: () => Promise<T>): () => Promise<T> {
  let loaded: Promise<T> | undefined;
  return () => {
    if (loaded) return loaded;
    loaded = load();
    loaded.catch(() => {
      loaded = undefined;
    });
    return loaded;
  };
}
