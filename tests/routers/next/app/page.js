export const metadata = { title: "one", alternates: { canonical: "https://www.a.vn/one" } };

export default () => <h1>one</h1>;
