// Verifies the signatures of what a receiver got, with implementations that are not ours: the npm
// package standardwebhooks for webhook-signature, Node's own HMAC for X-Whisperer-Signature.
//     node verify.mjs CONTROL-URL PATH SECRET [KEY-OF-PAYLOAD]
// prints a line for each request: its webhook-id, "ok" or what is wrong, and payload[KEY].

import crypto from 'node:crypto';
import http from 'node:http';
import { Webhook } from 'standardwebhooks';

const [control, path, secret, key] = process.argv.slice(2);
// A secret that is not whsec_… is its bytes: what these libraries call the raw format.
const webhook = secret.startsWith('whsec_')
    ? new Webhook(secret) : new Webhook(new Uint8Array(Buffer.from(secret)), { format: 'raw' });

function problems(headers, body) {
    const found = [];
    const expected = `sha256=${crypto.createHmac('sha256', secret).update(body).digest('hex')}`;
    if (headers['x-whisperer-signature'] !== expected) found.push('X-Whisperer-Signature');
    try {
        webhook.verify(body.toString(), headers);
    } catch (error) {
        found.push(`webhook-signature:${error.message.replace(/\s/g, '_')}`);
    }
    return found.join(',') || 'ok';
}

// One request a line: so the receiver's answer can be of any size.
function onLine(line) {
    if (!line.startsWith('{"seq"')) return;
    const request = JSON.parse(line.replace(/,$/, ''));
    const headers = Object.fromEntries(request.headers.map(([name, value]) => [name.toLowerCase(), value]));
    const body = Buffer.from(request.body, 'base64');
    const value = key === undefined ? '' : JSON.parse(body).payload[key];
    console.log(`${request.id} ${problems(headers, body)} ${value}`);
}

http.get(`${control}/requests?path=${encodeURIComponent(path)}`, async (response) => {
    let rest = '';
    for await (const text of response.setEncoding('utf8')) {
        const lines = (rest + text).split('\n');
        rest = lines.pop();
        lines.forEach(onLine);
    }
    onLine(rest);
});
