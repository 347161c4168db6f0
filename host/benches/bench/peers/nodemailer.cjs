// nodemailer's pool. Arguments: the folder of its package, port, connections, messages, octets of the body, and `made` (a message
// of its own for each recipient, as the library is meant to be used) or `ready` (the same octets again and again).
// Prints `seconds N`, from the first message to the last reply.
const [folder, port, connections, messages, octets, which] = process.argv.slice(2);
const nodemailer = require(require.resolve('nodemailer', { paths: [folder] }));
const line = 'The quick brown fox jumps over the lazy dog, and the dog does not mind.\r\n';
const text = line.repeat(Math.floor(octets / line.length));
const raw = Buffer.from('From: a@acme.example\r\nTo: user@x1.example\r\nSubject: Hello\r\n\r\n' + text);
const envelope = { from: 'a@acme.example', to: ['user@x1.example'] };
const message = (n) => which === 'made'
    ? { from: 'a@acme.example', to: { name: `User ${n}`, address: `user${n}@x${n % 50}.example` }, subject: 'Hello', text }
    : { envelope, raw };
const transport = nodemailer.createTransport({
    host: '127.0.0.1', port: Number(port), secure: false, ignoreTLS: true, pool: true, maxConnections: Number(connections),
    maxMessages: Infinity, disableFileAccess: true, disableUrlAccess: true,
});

let begun = 0;
async function sender() {
    while (begun < messages) {
        begun += 1;
        await transport.sendMail(message(begun));
    }
}

const start = process.hrtime.bigint();
// Twice as many as connections, so that none is ever without a message.
Promise.all(Array.from({ length: 2 * connections }, sender)).then(() => {
    console.log(`seconds ${Number(process.hrtime.bigint() - start) / 1e9}`);
    transport.close();
});
