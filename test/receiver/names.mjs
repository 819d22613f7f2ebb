// A name server (UDP, 127.0.0.1, port 53: for a network namespace of the test's own) that answers as it is told.
// Records: {"name": {"A": ["192.0.2.1"], "AAAA": []}}; an array of such objects is gone through look-up by look-up, the
// last one repeats; "silent" never answers, "fails" answers SERVFAIL. Other names do not exist.

import dgram from 'node:dgram';

const TYPES = { 1: 'A', 28: 'AAAA' };
const NXDOMAIN = 3, SERVFAIL = 2;

export class NameServer {
    constructor() {
        this.records = new Map();
        this.asked = new Map(); // "name type": how often
        this.numbers = new Map(); // "name type id": which time of these
        this.socket = null;
    }

    // Takes records beside those there are; those of the same name start from their beginning.
    async serve(records) {
        for (const [name, record] of Object.entries(records)) {
            this.records.set(name.toLowerCase(), Array.isArray(record) ? record : [record]);
            for (const type of Object.values(TYPES)) this.asked.delete(`${name.toLowerCase()} ${type}`);
        }
        this.numbers.clear();
        if (this.socket) return;
        // Many look-ups at once: what does not fit is lost, and asked for again only after the resolver's time-out.
        this.socket = dgram.createSocket({ type: 'udp4', recvBufferSize: 1 << 20 });
        this.socket.on('message', (query, from) => {
            const answer = this.answer(query);
            if (answer) this.socket.send(answer, from.port, from.address);
        });
        await new Promise((resolve, reject) => {
            this.socket.once('error', reject).bind(53, '127.0.0.1', resolve);
        });
    }

    // RFC 1035, section 4.1: the question again, and the addresses asked for.
    answer(query) {
        const { name, type, end } = readQuestion(query);
        const key = `${name} ${TYPES[type] ?? type}`;
        // A resolver that had to wait too long sends the same query again: that is no other look-up.
        const same = `${key} ${query.readUInt16BE(0)}`;
        const count = this.numbers.get(same) ?? this.asked.get(key) ?? 0;
        if (!this.numbers.has(same)) this.asked.set(key, count + 1);
        this.numbers.set(same, count);
        const steps = this.records.get(name);
        const record = steps?.[Math.min(count, steps.length - 1)];
        if (record === 'silent') return null;
        const addresses = (TYPES[type] && record?.[TYPES[type]]) || [];
        const header = Buffer.alloc(12);
        query.copy(header, 0, 0, 2);
        header.writeUInt16BE(0x8580 | (record === 'fails' ? SERVFAIL : record ? 0 : NXDOMAIN), 2);
        header.writeUInt16BE(1, 4);
        header.writeUInt16BE(addresses.length, 6);
        const answers = addresses.map((address) => {
            const bytes = address.includes(':') ? v6Bytes(address) : Buffer.from(address.split('.').map(Number));
            const head = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 0, 0, bytes.length]); // TTL 0
            return Buffer.concat([head, bytes]);
        });
        return Buffer.concat([header, query.subarray(12, end), ...answers]);
    }
}

function readQuestion(query) {
    const labels = [];
    let at = 12;
    while (query[at]) {
        labels.push(query.latin1Slice(at + 1, at + 1 + query[at]));
        at += 1 + query[at];
    }
    return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 };
}

function v6Bytes(text) {
    const [left, right] = text.split('::').map((part) => (part ? part.split(':') : []));
    const groups = right ? [...left, ...Array(8 - left.length - right.length).fill('0'), ...right] : left;
    const bytes = Buffer.alloc(16);
    groups.forEach((group, i) => bytes.writeUInt16BE(parseInt(group, 16), 2 * i));
    return bytes;
}
