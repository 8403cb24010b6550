export const metadata = { title: "two", alternates: { canonical: "https://www.a.vn/second" } };

export default () => <h1>two</h1>;
