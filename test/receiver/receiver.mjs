#!/usr/bin/env node
// A scripted HTTP receiver for the tests: answers as it is told, and keeps what it got.
//     node receiver.mjs '{"listen": [{"name": "main"}]}'
// prints one line of JSON, {"control": port, "ports": {"main": port}}, and ends when its standard
// input does, so that it never outlives the test that started it.  test/README.md has the details.

import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import tls from 'node:tls';
import { Behaviours, isPlain, perform } from './behaviour.mjs';
import { NameServer } from './names.mjs';
import { RequestParser } from './parser.mjs';
import { Store, describe } from './store.mjs';

const behaviours = new Behaviours();
const store = new Store();
const listeners = new Map();
const held = new Set();
const names = new NameServer();
let connections = 0;

class Connection {
    constructor(socket, port, reuse) {
        this.socket = socket;
        this.port = port;
        this.reuse = reuse;
        this.number = ++connections;
        this.requests = 0;
        this.closed = false;
        this.last = Promise.resolve();
        this.parser = new RequestParser((request) => this.onHead(request), (request) => this.onRequest(request));
        socket.setNoDelay(true);
        socket.on('data', (bytes) => this.onData(bytes));
        // A peer that goes away in the middle is an ordinary event here.
        socket.on('error', () => {});
        socket.on('close', () => { this.closed = true; });
    }

    onData(bytes) {
        try {
            this.parser.push(bytes);
        } catch (error) {
            process.stderr.write(`receiver: ${error.message}\n`);
            this.write('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n');
            this.cut('close');
        }
    }

    onHead(request) {
        request.step = behaviours.next(this.port, request);
        const { early, cut, hang } = request.step;
        if (!early && cut !== 'head' && hang !== 'head') return;
        store.add(request, this.port, this.number, ++this.requests, false);
        if (hang === 'head') return this.hangUnread(request.path);
        if (early === 'unread') this.socket.pause();
        perform(request.step, this, request, early ? 'request' : 'head');
    }

    // No more of the body is taken than what may have come with the head; once released, it is read and answered.
    hangUnread(path) {
        this.socket.pause();
        this.busy = true;
        this.last = this.held(path).then(() => { if (!this.closed) this.socket.resume(); });
    }

    onRequest(request) {
        const { early, cut, hang } = request.step;
        if (this.closed || early || cut === 'head') return;
        if (hang !== 'head') store.add(request, this.port, this.number, ++this.requests);
        if (this.reuse && this.requests > 1) return this.cut(this.reuse);
        store.begin(request.path);
        // Requests on one connection are answered in their order.
        if (isPlain(request.step) && !this.busy) {
            this.answerAtOnce(request);
            return;
        }
        this.busy = true;
        const mine = (this.last = this.last.then(() => perform(request.step, this, request, 'request')).finally(() => {
            store.end(request.path);
            if (this.last === mine) this.busy = false;
        }));
    }

    answerAtOnce(request) {
        const { head, body } = request.step.answer;
        this.write(body.length ? Buffer.concat([head, body]) : head);
        if (request.step.close || !head.length) this.cut('close');
        store.end(request.path);
    }

    write(bytes) {
        if (!this.closed && bytes.length) this.socket.write(bytes);
    }

    // Resolves when the peer has read most of what was written, or is gone.
    async drained() {
        if (this.socket.writableNeedDrain && !this.closed) {
            await new Promise((resolve) => { this.socket.once('drain', resolve).once('close', resolve); });
        } else {
            await new Promise(setImmediate);
        }
    }

    // What comes from now on goes to "host:port", as it is (for a proxy: the target of CONNECT).
    tunnel(target) {
        const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(target);
        const other = net.connect({ host, port: Number(port) });
        other.on('error', () => this.socket.destroy()).on('close', () => this.socket.destroy());
        this.socket.removeAllListeners('data').on('close', () => other.destroy());
        this.socket.pipe(other).pipe(this.socket);
    }

    // Ends the connection: "reset" with a RST, "close" after what was written.
    cut(how) {
        if (how === 'reset') this.socket.resetAndDestroy();
        else this.socket.end();
        this.closed = true;
    }

    // Holds an answer back until the path is released or the peer goes.
    held(path) {
        return new Promise((resolve) => {
            const hold = { path, resolve };
            held.add(hold);
            this.socket.once('close', () => { held.delete(hold); resolve(); });
        });
    }
}

function release(path) {
    for (const hold of held) {
        if (path !== undefined && hold.path !== path) continue;
        held.delete(hold);
        hold.resolve();
    }
}

// Opens a port: {name, port?, host?, tls?: {cert, key (file names), …}, accept?: "hang" | "reset" | "close" | ms,
//     reuse?: "reset" | "close"}
function listen({ name, port = 0, host = '127.0.0.1', tls: files, accept, reuse }) {
    const sockets = new Set();
    const onSocket = (socket) => {
        if (accept === 'reset') return socket.resetAndDestroy();
        if (accept === 'close') return socket.end();
        sockets.add(socket);
        socket.on('close', () => sockets.delete(socket));
        if (accept === 'hang') return socket.on('error', () => {}).resume();
        if (accept) return setTimeout(() => new Connection(socket, name, reuse), accept);
        return new Connection(socket, name, reuse);
    };
    const server = files
        ? tls.createServer({ ...files, cert: fs.readFileSync(files.cert), key: fs.readFileSync(files.key) }, onSocket)
        : net.createServer(onSocket);
    server.on('tlsClientError', () => {});
    return new Promise((resolve, reject) => {
        server.on('error', reject);
        server.listen({ port, host, backlog: 4096 }, () => {
            listeners.set(name, { server, sockets });
            resolve(server.address().port);
        });
    });
}

// Closes a port and every connection made to it: it refuses from then on.
function unlisten({ name }) {
    const listener = listeners.get(name);
    if (!listener) throw new Error(`no such port: ${name}`);
    listeners.delete(name);
    for (const socket of listener.sockets) socket.resetAndDestroy();
    return new Promise((resolve) => listener.server.close(resolve));
}

function statistics() {
    const open = {};
    for (const [name, { sockets }] of listeners) open[name] = sockets.size;
    return {
        requests: store.requests.length, connections, open, held: held.size,
        active: Object.fromEntries(store.active), most_active: Object.fromEntries(store.mostActive),
    };
}

// ---- The control port ------------------------------------------------------------------------

const actions = {
    'POST /behave': (rule) => { behaviours.set(rule); },
    'POST /listen': async (options) => ({ port: await listen(options) }),
    'POST /unlisten': (options) => unlisten(options),
    'POST /release': ({ path }) => release(path),
    'POST /names': ({ records }) => names.serve(records),
    'GET /names': () => ({ asked: Object.fromEntries(names.asked) }),
    'POST /forget': () => store.reset(),
    'POST /reset': () => { release(); behaviours.reset(); store.reset(); },
    'GET /statistics': () => statistics(),
};

// GET /requests?path=&port=&id=&after=&min=&timeout=&brief=1&forget=1: waits until `min` match, or timeout (s);
// forgets all of them, with nothing in between that would be lost.
async function sendRequests(query, response) {
    const filter = {};
    for (const key of ['path', 'port', 'id']) if (query.has(key)) filter[key] = query.get(key);
    if (query.has('after')) filter.after = Number(query.get('after'));
    const enough = await store.wait(filter, Number(query.get('min') ?? 0), Number(query.get('timeout') ?? 0));
    response.writeHead(200, { 'Content-Type': 'application/json' });
    // Piece by piece: there may be more than a string can hold.
    response.write(`{"enough": ${enough}, "requests": [`);
    let separator = '\n';
    for (const request of query.has('count') ? [] : store.find(filter)) {
        response.write(separator + JSON.stringify(describe(request, query.has('brief'))));
        separator = ',\n';
    }
    response.end(`\n], "count": ${store.find(filter).length}}\n`);
    if (query.has('forget')) store.reset();
}

async function control(request, response) {
    const url = new URL(request.url, 'http://control');
    const parts = [];
    for await (const part of request) parts.push(part);
    try {
        if (`${request.method} ${url.pathname}` === 'GET /requests') {
            return await sendRequests(url.searchParams, response);
        }
        const action = actions[`${request.method} ${url.pathname}`];
        if (!action) throw new Error(`no such action: ${request.method} ${url.pathname}`);
        const result = await action(parts.length ? JSON.parse(Buffer.concat(parts)) : {});
        response.end(JSON.stringify(result ?? {}));
    } catch (error) {
        response.statusCode = 400;
        response.end(JSON.stringify({ error: error.message }));
    }
}

process.stdin.on('end', () => process.exit(0)).on('error', () => process.exit(0)).resume();
const options = JSON.parse(process.argv[2] ?? '{"listen": [{"name": "main"}]}');
const ports = {};
for (const port of options.listen) ports[port.name] = await listen(port);
// A test may be silent for long: a connection that is closed as it speaks again takes its words with it.
const server = http.createServer({ requestTimeout: 0, keepAliveTimeout: 0 }, control);
server.listen(0, '127.0.0.1', () => {
    process.stdout.write(`${JSON.stringify({ control: server.address().port, ports })}\n`);
});
