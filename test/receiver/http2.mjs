#!/usr/bin/env node
// An HTTP/2 receiver that misbehaves, in frames of its own making (RFC 9113): each port has the behaviour of its name for its
// requests from the `after`th on, `times` of them, and answers the others with 200.
//     node http2.mjs CERT KEY '{"goaway": {}, "refused": {"times": 5}, …}'
// prints {"ports": {name: port}}, then a line for each request that came whole: {port, connection, stream, uuid, refused};
// refused: this receiver said that it has done nothing with it. Ends with its standard input.
// Requests are told apart by their body; their headers are not decoded.

import { readFileSync } from 'node:fs';
import tls from 'node:tls';

const [DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION] = [0, 1, 3, 4, 5, 6, 7, 8, 9];
const END_STREAM = 1, ACK = 1, END_HEADERS = 4;
const NO_ERROR = 0, INTERNAL_ERROR = 2, REFUSED_STREAM = 7, CANCEL = 8;
const preface = 24; // "PRI * HTTP/2.0", …

function frame(type, flags, stream, payload = Buffer.alloc(0)) {
    const head = Buffer.alloc(9);
    head.writeUIntBE(payload.length, 0, 3);
    head[3] = type;
    head[4] = flags;
    head.writeUInt32BE(stream, 5);
    return Buffer.concat([head, payload]);
}
function numbers(...values) {
    const bytes = Buffer.alloc(4 * values.length);
    values.forEach((value, i) => bytes.writeUInt32BE(value, 4 * i));
    return bytes;
}
function setting(id, value) {
    const bytes = Buffer.alloc(6);
    bytes.writeUInt16BE(id, 0);
    bytes.writeUInt32BE(value, 2);
    return frame(SETTINGS, 0, 0, bytes);
}
// A header field, literal and without index (RFC 7541, 6.2.2); names and values of up to 126 bytes.
const field = (name, value) => Buffer.concat([Buffer.from([0, name.length]), Buffer.from(name, 'latin1'),
    Buffer.from([value.length]), Buffer.from(value, 'latin1')]);
const status = (code) => field(':status', String(code));
const headers = (stream, ...fields) => frame(HEADERS, END_HEADERS, stream, Buffer.concat(fields));
const data = (stream, text, flags = 0) => frame(DATA, flags, stream, Buffer.from(text));
const reset = (stream, code) => frame(RST_STREAM, 0, stream, numbers(code));
const goaway = (last, code) => frame(GOAWAY, 0, 0, numbers(last, code));
const well = (stream) => Buffer.concat([headers(stream, status(200)), data(stream, 'well', END_STREAM)]);
const started = (stream) => Buffer.concat([headers(stream, status(200)), data(stream, 'half')]);
const filler = (count) => Buffer.concat(Array(count).fill(field('x-flood', 'x'.repeat(100))));

// What is done with a request: `c` is its connection, `s` its stream. Answers true when it refused it.
const behaviours = {
    well: (c, s) => { c.send(well(s)); },
    goaway_unprocessed: (c, s) => { c.send(goaway(0, NO_ERROR)); c.end(); return true; },
    goaway_error: (c, s) => { c.send(goaway(s, INTERNAL_ERROR)); c.end(); },
    goaway_processed: (c, s) => { c.send(goaway(s, NO_ERROR)); c.end(); },
    goaway_within: (c, s) => { c.half(s, () => { c.send(goaway(s, NO_ERROR)); c.end(); }); },
    goaway_graceful: (c, s) => { c.send(goaway(s, NO_ERROR), well(s)); },
    // Once five have come: answers two, and has not seen the others.
    goaway_many: (c, s) => {
        c.streams.push(s);
        if (c.streams.length === 5) {
            c.send(...c.streams.slice(0, 2).map(well), goaway(c.streams[1], NO_ERROR));
            c.end();
        }
        return c.streams.length > 2;
    },
    refused: (c, s) => { c.send(reset(s, REFUSED_STREAM)); return true; },
    refused_always: (c, s) => behaviours.refused(c, s),
    rst_internal: (c, s) => { c.send(reset(s, INTERNAL_ERROR)); },
    rst_cancel: (c, s) => { c.send(reset(s, CANCEL)); },
    rst_clean: (c, s) => { c.send(reset(s, NO_ERROR)); },
    rst_within: (c, s) => { c.half(s, () => c.send(reset(s, INTERNAL_ERROR))); },
    rst_clean_within: (c, s) => { c.half(s, () => c.send(reset(s, NO_ERROR))); },
    rst_within_headers: (c, s) => { c.send(headers(s, status(200)), reset(s, CANCEL)); },
    closes: (c) => { c.end(); },
    resets: (c) => { c.reset(); },
    closes_within: (c, s) => { c.half(s, () => c.end()); },
    resets_within: (c, s) => { c.half(s, () => c.reset()); },
    closes_in_a_frame: (c, s) => { c.send(headers(s, status(200)), data(s, 'half of it').subarray(0, 13)); c.end(); },
    length_too_long: (c, s) => { c.send(headers(s, status(200), field('content-length', '500')), data(s, 'half', END_STREAM)); },
    length_too_short: (c, s) => { c.send(headers(s, status(200), field('content-length', '2')), data(s, 'half', END_STREAM)); },
    data_on_stream_0: (c) => { c.send(data(0, 'nonsense')); },
    data_first: (c, s) => { c.send(data(s, 'nonsense', END_STREAM)); },
    too_large_a_frame: (c, s) => { c.send(headers(s, status(200)), frame(DATA, END_STREAM, s, Buffer.alloc(100_000))); },
    http1: (c) => { c.send(Buffer.from('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')); },
    nonsense: (c) => { c.send(Buffer.alloc(5000, 0xff)); },
    bad_compression: (c, s) => { c.send(frame(HEADERS, END_HEADERS | END_STREAM, s, Buffer.from([0xff, 0xff, 0xff, 0xff, 0x7f]))); },
    no_status: (c, s) => { c.send(frame(HEADERS, END_HEADERS | END_STREAM, s, field('x-a', 'b'))); },
    odd_status: (c, s) => { c.send(frame(HEADERS, END_HEADERS | END_STREAM, s, field(':status', '2OO'))); },
    header_with_newline: (c, s) => { c.send(headers(s, status(200), field('x-a', 'b\r\nX-Evil: c')), data(s, 'well', END_STREAM)); },
    upper_case: (c, s) => { c.send(headers(s, status(200), field('X-A', 'b')), data(s, 'well', END_STREAM)); },
    push: (c, s) => { c.send(frame(PUSH_PROMISE, END_HEADERS, s, Buffer.concat([numbers(2), status(200)]))); },
    settings_of_5_bytes: (c) => { c.send(frame(SETTINGS, 0, 0, Buffer.alloc(5))); },
    window_overflow: (c, s) => { c.send(frame(WINDOW_UPDATE, 0, s, numbers(0x7fffffff)), frame(WINDOW_UPDATE, 0, s, numbers(0x7fffffff))); },
    headers_split: (c, s) => { c.send(frame(HEADERS, 0, s, status(200)), data(s, 'nonsense', END_STREAM)); },
    many_headers: (c, s) => { c.send(frame(HEADERS, 0, s, status(200)), ...Array(20).fill(frame(CONTINUATION, 0, s, filler(100))), frame(CONTINUATION, END_HEADERS, s), data(s, 'well', END_STREAM)); },
    endless_continuation: (c, s) => { c.send(frame(HEADERS, 0, s, status(200))); c.flood(frame(CONTINUATION, 0, s, filler(100))); },
    endless_empty_continuation: (c, s) => { c.send(frame(HEADERS, 0, s, status(200))); c.flood(frame(CONTINUATION, 0, s)); },
    endless_informational: (c, s) => { c.flood(headers(s, status(103), field('link', '</a>'))); },
    endless_trailers: (c, s) => { c.send(started(s), frame(HEADERS, END_STREAM, s, field('x-a', 'b'))); c.flood(frame(CONTINUATION, 0, s, filler(100))); },
    endless_body: (c, s) => { c.send(headers(s, status(200))); c.flood(data(s, 'x'.repeat(1000))); },
    informational: (c, s) => { c.send(headers(s, status(103)), well(s)); },
    trailers: (c, s) => { c.send(headers(s, status(200)), data(s, 'well'), frame(HEADERS, END_HEADERS | END_STREAM, s, field('x-a', 'b'))); },
    silent: () => {},
    nonsense_within: (c, s) => { c.half(s, () => c.send(Buffer.alloc(5000, 0xff))); },
    silent_within: (c, s) => { c.send(started(s)); },
    pings: (c) => { c.trickle(frame(PING, 0, 0, Buffer.alloc(8))); },
    flood_of_pings: (c) => { c.flood(frame(PING, 0, 0, Buffer.alloc(8))); },
    settings: (c) => { c.trickle(setting(4, 65_535)); },
    empty_data: (c, s) => { c.send(headers(s, status(200))); c.trickle(data(s, '')); },
    window_closed: () => {},
    no_settings: () => {},
    one_stream: (c, s) => { setTimeout(() => c.send(well(s)), 5); },
};
// What is said before any request.
const greetings = { window_closed: [setting(4, 0)], no_settings: [], one_stream: [setting(3, 1)] };

class Connection {
    constructor(socket, port) {
        Object.assign(this, { socket, port, number: ++port.connections, streams: [], bodies: new Map(), bytes: Buffer.alloc(0), skip: preface });
        socket.setNoDelay(true).on('error', () => {}).on('close', () => { clearInterval(this.timer); this.closed = true; this.onClose?.(); });
        socket.on('data', (bytes) => this.take(bytes));
        this.send(...(greetings[port.name] ?? [frame(SETTINGS, 0, 0)]));
    }

    take(bytes) {
        const skipped = Math.min(this.skip, bytes.length);
        this.skip -= skipped;
        this.bytes = Buffer.concat([this.bytes, bytes.subarray(skipped)]);
        while (this.bytes.length >= 9 && this.bytes.length >= 9 + this.bytes.readUIntBE(0, 3)) {
            const end = 9 + this.bytes.readUIntBE(0, 3);
            this.frame(this.bytes[3], this.bytes[4], this.bytes.readUInt32BE(5), this.bytes.subarray(9, end));
            this.bytes = this.bytes.subarray(end);
        }
    }

    frame(type, flags, stream, payload) {
        if (type === SETTINGS && !(flags & ACK) && this.port.name !== 'no_settings') this.send(frame(SETTINGS, ACK, 0));
        if (type === PING && flags & ACK) this.onPong?.();
        if (type !== DATA) return;
        this.bodies.set(stream, (this.bodies.get(stream) ?? '') + payload);
        if (!(flags & END_STREAM)) return;
        const [, uuid] = /"uuid": "(\w+)"/.exec(this.bodies.get(stream));
        const { after = 0, times = 1 } = this.port, number = this.port.requests++ - after;
        const behaviour = number >= 0 && number < times ? this.port.name : 'well';
        const refused = behaviours[behaviour](this, stream) ?? false;
        console.log(JSON.stringify({ port: this.port.name, connection: this.number, stream, uuid, refused }));
    }

    send(...frames) {
        if (!this.closed) this.socket.write(Buffer.concat(frames));
    }

    // Half of an answer, and what follows when the client has read it.
    half(stream, then) {
        this.onPong = then;
        this.send(started(stream), frame(PING, 0, 0, Buffer.alloc(8)));
    }

    // Ends: with all that was sent, or with a RST. (TLS sockets cannot; the one below can, which has no public name.)
    end() { this.socket.end(); this.closed = true; }
    reset() { this.socket._parent.resetAndDestroy(); }

    // The same again and again, as fast as it is read; and ten times a second.
    async flood(bytes) {
        const many = Buffer.concat(Array(Math.ceil(10_000 / bytes.length)).fill(bytes));
        while (!this.closed) {
            if (this.socket.write(many)) await new Promise(setImmediate);
            else await new Promise((resolve) => { this.socket.once('drain', resolve); this.onClose = resolve; });
        }
    }
    trickle(bytes) { this.timer = setInterval(() => this.send(bytes), 100); }
}

process.stdin.on('end', () => process.exit(0)).on('error', () => process.exit(0)).resume();
const [, , cert, key, wanted] = process.argv;
const ports = {};
for (const [name, options] of Object.entries(JSON.parse(wanted))) {
    if (!behaviours[name]) throw new Error(`no such behaviour: ${name}`);
    const port = { ...options, name, connections: 0, requests: 0 };
    const server = tls.createServer({ cert: readFileSync(cert), key: readFileSync(key), ALPNProtocols: ['h2'] }, (socket) => new Connection(socket, port));
    server.on('tlsClientError', () => {});
    await new Promise((resolve) => { server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, resolve); });
    ports[name] = server.address().port;
}
console.log(JSON.stringify({ ports }));
