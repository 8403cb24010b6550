// What service/web/scripts.py puts into embed.js beside its code.
declare namespace bundle {
  interface Words {
    lang: string;
    /** Of each row. */
    labels: Record<string, string>;
    format: string;
    title: string;
    none: string;
    colon: string;
    /** How the sign of an approximate number is heard. */
    about: string;
    as_of: string;
    pause: string;
    resume: string;
    opted_out: string;
    opted_in: string;
    how: string;
    last_days: string;
  }
  const words: Words[];
  /** Digits from which on there are groups, what separates them, and a language's own digits. */
  const formats: Record<string, string>;
}
