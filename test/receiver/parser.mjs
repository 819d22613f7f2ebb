// An incremental parser for HTTP/1.1 requests.  Our own, because the tests want to see what was
// really sent: every header in its order and spelling, every byte of the body.

const HEAD_END = Buffer.from('\r\n\r\n');

export class RequestParser {
    // onHead(request) when the head is there, onRequest(request) when the body is, too.
    constructor(onHead, onRequest) {
        this.onHead = onHead;
        this.onRequest = onRequest;
        this.buffer = null;
        this.request = null;
        // What has come since the buffer was made, and how many bytes a body that is not all there needs.
        this.pieces = [];
        this.held = 0;
        this.needed = 0;
    }

    // Bytes from the connection.  Throws an Error for what is not HTTP.
    push(bytes) {
        this.pieces.push(bytes);
        this.held += bytes.length;
        if (this.held < this.needed) return;
        this.buffer = this.pieces.length === 1 ? bytes : Buffer.concat(this.pieces);
        this.parse();
        this.pieces = this.buffer ? [this.buffer] : [];
        this.held = this.buffer?.length ?? 0;
    }

    parse() {
        while (this.buffer) {
            if (!this.request && !this.parseHead()) return;
            if (!this.parseBody()) return;
            const request = this.request;
            this.request = null;
            this.onRequest(request);
        }
    }

    take(length) {
        const taken = this.buffer.subarray(0, length);
        this.buffer = length === this.buffer.length ? null : this.buffer.subarray(length);
        return taken;
    }

    parseHead() {
        // A TLS handshake, for instance, is no head that is not complete yet.
        if (!/^[A-Za-z]/.test(this.buffer.latin1Slice(0, 1))) throw new Error('not HTTP');
        const end = this.buffer.indexOf(HEAD_END);
        if (end < 0) return false;
        const head = this.take(end + 4);
        const lines = head.latin1Slice(0, end).split('\r\n');
        const [, method, target, version] = /^(\S+) (\S+) (HTTP\/1\.[01])$/.exec(lines[0]) ?? [];
        if (!method) throw new Error(`not a request line: ${lines[0]}`);
        const headers = [];
        const byName = {};
        for (let i = 1; i < lines.length; i++) {
            const colon = lines[i].indexOf(':');
            if (colon < 1) throw new Error(`not a header line: ${lines[i]}`);
            const name = lines[i].slice(0, colon);
            const value = lines[i].slice(colon + 1).trim();
            headers.push([name, value]);
            byName[name.toLowerCase()] = value;
        }
        const question = target.indexOf('?');
        this.request = {
            method, target, version, headers, byName, head,
            path: question < 0 ? target : target.slice(0, question),
            body: Buffer.alloc(0),
        };
        this.chunks = /\bchunked\b/i.test(byName['transfer-encoding'] ?? '') ? [] : null;
        this.missing = Number(byName['content-length'] ?? 0);
        this.onHead(this.request);
        return true;
    }

    parseBody() {
        if (this.chunks) return this.parseChunks();
        if (this.missing > 0) {
            this.needed = this.missing;
            if (!this.buffer || this.buffer.length < this.missing) return false;
            this.request.body = this.take(this.missing);
            this.needed = 0;
        }
        return true;
    }

    parseChunks() {
        for (;;) {
            const lineEnd = this.buffer ? this.buffer.indexOf('\r\n') : -1;
            if (lineEnd < 0) return false;
            const size = parseInt(this.buffer.latin1Slice(0, lineEnd), 16);
            if (Number.isNaN(size)) throw new Error('not a chunk size');
            if (this.buffer.length < lineEnd + 2 + size + 2) return false;
            const chunk = this.take(lineEnd + 2 + size + 2);
            if (size === 0) {
                this.request.body = Buffer.concat(this.chunks);
                return true;
            }
            this.chunks.push(chunk.subarray(lineEnd + 2, lineEnd + 2 + size));
        }
    }
}
