// What the receiver does with a request: the rules that tests set, and how an answer is written.
// The keys of a rule and of its steps are described in test/README.md.

const REASONS = {
    200: 'OK', 201: 'Created', 202: 'Accepted', 204: 'No Content', 301: 'Moved Permanently', 302: 'Found',
    307: 'Temporary Redirect', 400: 'Bad Request', 401: 'Unauthorized', 404: 'Not Found', 410: 'Gone',
    429: 'Too Many Requests', 500: 'Internal Server Error', 503: 'Service Unavailable',
};
const STEP_KEYS = new Set(['times', 'status', 'reason', 'headers', 'body', 'body_base64', 'body_size', 'chunked',
    'content_length', 'raw', 'raw_base64', 'early', 'endless', 'tunnel', 'delay', 'trickle', 'hang', 'cut', 'how', 'close']);
const STAGES = ['head', 'request', 'headers', 'body', 'end'];

export class Behaviours {
    constructor() { this.reset(); }

    reset() {
        this.rules = new Map();
        this.fallback = makeRule({});
    }

    // A rule for the path and port it names ('*' or none: any); replaces the one for the same.
    set(rule) {
        this.rules.set(`${rule.port ?? '*'} ${rule.path ?? '*'}`, makeRule(rule));
    }

    // The step for this request, which it also uses up.
    next(port, request) {
        const rule = this.rules.get(`${port} ${request.path}`) ?? this.rules.get(`* ${request.path}`) ??
            this.rules.get(`${port} *`) ?? this.rules.get('* *') ?? this.fallback;
        const key = rule.per ? request.byName[rule.per] ?? '' : '';
        const count = rule.counts.get(key) ?? 0;
        if (rule.steps.length > 1) rule.counts.set(key, count + 1);
        let end = 0;
        for (const step of rule.steps) {
            end += step.times ?? 1;
            if (count < end) return step;
        }
        return rule.steps[rule.steps.length - 1];
    }
}

function makeRule({ per, steps = [{}] }) {
    for (const step of steps) {
        for (const key of Object.keys(step)) {
            if (!STEP_KEYS.has(key)) throw new Error(`unknown key of a step: ${key}`);
        }
        for (const key of ['hang', 'cut']) {
            if (step[key] !== undefined && !STAGES.includes(step[key])) {
                throw new Error(`${key} is none of ${STAGES}: ${step[key]}`);
            }
        }
    }
    return { per: per?.toLowerCase(), counts: new Map(), steps: steps.map((step) => ({ ...step, answer: compose(step) })) };
}

// The bytes of a step's answer, in two parts: they are the same for every request.
function compose(step) {
    if (step.raw !== undefined) return { head: Buffer.alloc(0), body: Buffer.from(step.raw, 'latin1') };
    if (step.raw_base64 !== undefined) return { head: Buffer.alloc(0), body: Buffer.from(step.raw_base64, 'base64') };
    const status = step.status ?? 200;
    let body = step.body_base64 !== undefined ? Buffer.from(step.body_base64, 'base64')
        : step.body_size !== undefined ? Buffer.alloc(step.body_size, 'x') : Buffer.from(step.body ?? '');
    const headers = [...(step.headers ?? [])];
    if (step.chunked) {
        headers.push(['Transfer-Encoding', 'chunked']);
        body = Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n0\r\n\r\n')]);
    } else if (status !== 204) {
        headers.push(['Content-Length', String(step.content_length ?? body.length)]);
    }
    if (step.close) headers.push(['Connection', 'close']);
    const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
    return { head: Buffer.from(`HTTP/1.1 ${status} ${step.reason ?? REASONS[status] ?? ''}\r\n${lines}\r\n`, 'latin1'), body };
}

export function isPlain(step) {
    return !(step.delay || step.trickle || step.hang || step.cut || step.endless || step.tunnel);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Carries out a step from the given stage on ("head": the body has not been read yet).
// `connection` has write(bytes), cut(how), held(path) → promise, closed.
export async function perform(step, connection, request, from) {
    const { head, body } = step.answer;
    const half = body.subarray(0, body.length >> 1);
    const actions = {
        head: async () => {},
        request: async () => { await delayed('headers'); },
        headers: async () => { connection.write(head); },
        body: async () => { await delayed('body'); await send(half); },
        end: async () => { await send(body.subarray(half.length)); await repeated(); await delayed('end'); },
    };
    // Hanging or cutting "at" a stage is after what is done in it.
    for (const stage of STAGES.slice(STAGES.indexOf(from))) {
        if (connection.closed) return;
        await actions[stage]();
        if (step.hang === stage) await connection.held(request.path);
        if (step.cut === stage) {
            connection.cut(step.how ?? 'reset');
            return;
        }
        if (stage === 'head') return;
    }
    if (step.tunnel) return connection.tunnel(request.target);
    if (step.close || step.raw !== undefined || step.raw_base64 !== undefined) connection.cut('close');

    async function delayed(what) {
        if (step.delay?.[what]) await pause(step.delay[what]);
    }
    // The second half of the body again and again, as fast as the peer reads.
    async function repeated() {
        while (step.endless && !connection.closed) {
            await send(body.subarray(half.length));
            await connection.drained();
        }
    }
    async function send(bytes) {
        if (!step.trickle) return connection.write(bytes);
        for (let at = 0; at < bytes.length && !connection.closed; at += step.trickle.bytes) {
            connection.write(bytes.subarray(at, at + step.trickle.bytes));
            await pause(step.trickle.interval);
        }
    }
}
