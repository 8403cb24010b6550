import Link from "next/link";
import Script from "next/script";

export default function Layout({ children }) {
  return (
    <html lang="en">
      <body>
        <Link href="/">one</Link> <Link href="/two">two</Link> <Link href="/three">three</Link>
        {children}
        <visit-counter />
        <Script src="/thongke/embed.js" data-site="portal" />
      </body>
    </html>
  );
}
