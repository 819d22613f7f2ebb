// The requests that arrived, and those who wait for more of them.

// Seconds since 1970 as the clocks of tests and servers have them, which may be set, or were read a while apart from the finer one
// when this process began. So it is asked each time, and the finer one tells what is below a millisecond only.
function now() {
    const wall = Date.now();
    const fine = performance.timeOrigin + performance.now();
    return (fine >= wall && fine < wall + 1 ? fine : wall) / 1000;
}

export class Store {
    constructor() {
        this.waiting = new Set();
        this.reset();
    }

    reset() {
        this.requests = [];
        this.byPath = new Map();
        this.active = new Map();
        this.mostActive = new Map();
    }

    // Keeps a request; complete is false when its body was not read.
    add(request, port, connection, number, complete = true) {
        const stored = {
            seq: this.requests.length, port, connection, number, complete, arrived: now(),
            method: request.method, target: request.target, path: request.path, version: request.version,
            headers: request.headers, id: request.byName['webhook-id'], head: request.head, body: request.body,
        };
        this.requests.push(stored);
        let list = this.byPath.get(stored.path);
        if (!list) this.byPath.set(stored.path, (list = []));
        list.push(stored);
        for (const waiter of this.waiting) waiter.offer(stored);
    }

    // How many requests to a path are being answered, now and at most.
    begin(path) {
        const active = (this.active.get(path) ?? 0) + 1;
        this.active.set(path, active);
        if (active > (this.mostActive.get(path) ?? 0)) this.mostActive.set(path, active);
    }

    end(path) { this.active.set(path, Math.max(0, (this.active.get(path) ?? 0) - 1)); }

    find(filter) {
        const list = filter.path === undefined ? this.requests : this.byPath.get(filter.path) ?? [];
        return list.filter((request) => matches(request, filter));
    }

    // Resolves with true when at least `min` requests match, with false after `timeout` seconds.
    wait(filter, min, timeout) {
        let have = this.find(filter).length;
        if (have >= min) return Promise.resolve(true);
        return new Promise((resolve) => {
            const waiter = {
                offer: (request) => {
                    if (matches(request, filter) && ++have >= min) done(true);
                },
            };
            const done = (enough) => {
                clearTimeout(timer);
                this.waiting.delete(waiter);
                resolve(enough);
            };
            const timer = setTimeout(done, timeout * 1000, false);
            this.waiting.add(waiter);
        });
    }
}

function matches(request, filter) {
    return (filter.path === undefined || request.path === filter.path) &&
        (filter.port === undefined || request.port === filter.port) &&
        (filter.id === undefined || request.id === filter.id) &&
        (filter.after === undefined || request.seq > filter.after);
}

// A request as the control port tells it.
export function describe(request, brief) {
    const { seq, path, id, arrived } = request;
    if (brief) return { seq, path, id, arrived };
    return { ...request, head: request.head.toString('base64'), body: request.body.toString('base64') };
}
