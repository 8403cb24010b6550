// What service/web/scripts.py puts into embed.js beside its code.
declare const bundle: {
  words: Record<string, string>[];
  /** Digits from which on there are groups, the zero, and what separates groups. */
  formats: Record<string, string>;
};
