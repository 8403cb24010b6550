export const metadata = { title: "three" };

export default () => <h1>three</h1>;
