# Shared by the scripts beside it; to be read with ".", not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PG_MAJOR=${PG_MAJOR:-15}
if [[ -z ${PG_CONFIG:-} ]]; then
    PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
    [[ -x $PG_CONFIG ]] || PG_CONFIG=$(command -v pg_config)
fi
export PG_MAJOR PG_CONFIG

# Colours, where the terminal has them and nobody said no (https://no-color.org).
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' cyan=$'\e[36m' plain=$'\e[0m'
else
    bold='' dim='' red='' green='' yellow='' cyan='' plain=''
fi

# PostgreSQL refuses to run as root: then servers and tests are run as this user.
unprivileged=nobody

# Runs a command as an ordinary user, with this environment and a home of its own.
as_user() {
    if [[ $(id -u) -eq 0 ]]; then
        setpriv --reuid="$unprivileged" --regid="$(id -gn "$unprivileged")" --clear-groups -- "$@"
    else
        "$@"
    fi
}

build() {
    make -C "$root" --no-print-directory -s -j"$(nproc)" all
}

# Makes the stage: a directory under /tmp, readable for the unprivileged user wherever the source
# tree is, that holds everything the servers and tests of one run need, and all they write:
#     pg/     PostgreSQL with the extension; nothing is written to the system's directories
#     tree/   test/, sql/, expected/, scripts/ of the source tree
#     out/    what tests write: clusters, logs
#     tmp/, socket/, home/
# Sets $stage and the environment; the stage goes away with the script (remove_stage).
make_stage() {
    stage=$(mktemp -d "${TMPDIR:-/tmp}/whisperer.XXXXXX")
    chmod 755 "$stage"
    trap remove_stage EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    mkdir "$stage"/{pg,tree,out,tmp,socket,home,ports}
    private_postgresql "$stage/pg"
    local part
    for part in test sql expected scripts bench docs README.md; do
        [[ -e $root/$part ]] && cp -R "$root/$part" "$stage/tree/"
    done
    if [[ $(id -u) -eq 0 ]]; then
        chown -R "$unprivileged:$(id -gn "$unprivileged")" "$stage"/{tree,out,tmp,socket,home,ports}
    fi
    local server_root
    server_root=$("$private_pg_config" --pkglibdir)
    export PATH="${private_pg_config%/*}:$PATH" PG_CONFIG=$private_pg_config
    export HOME=$stage/home TMPDIR=$stage/tmp WHISPERER_STAGE=$stage
    export PERL5LIB="$stage/tree/test/lib:$server_root/pgxs/src/test/perl${PERL5LIB:+:$PERL5LIB}"
    export PG_REGRESS=$server_root/pgxs/src/test/regress/pg_regress
    export PG_TEST_PORT_DIR=$stage/ports
    # Names and messages are the same on every machine.
    export LC_ALL=C.UTF-8 TZ=UTC PGUSER=postgres
    unset PGHOST PGPORT PGDATABASE PGSERVICE PGPASSWORD PGOPTIONS PGDATA
    cd "$stage/tree"
}

# A copy of the PostgreSQL that PG_CONFIG belongs to, with the built extension installed into it.
# PostgreSQL finds its files relative to where its programs are, so these are copied and the
# libraries and shared files, which it only reads, are links.
private_postgresql() {
    local to=$1 from bindir pkglibdir sharedir includedir
    bindir=$("$PG_CONFIG" --bindir) pkglibdir=$("$PG_CONFIG" --pkglibdir)
    sharedir=$("$PG_CONFIG" --sharedir) includedir=$("$PG_CONFIG" --includedir-server)
    from=$(common_directory "$bindir" "$pkglibdir" "$sharedir" "$includedir")
    mkdir -p "$to${bindir#"$from"}" "$to${pkglibdir#"$from"}" "$to${sharedir#"$from"}"
    cp -R --dereference "$bindir/." "$to${bindir#"$from"}/"
    cp -R --symbolic-link "$pkglibdir/." "$to${pkglibdir#"$from"}/"
    cp -R --symbolic-link "$sharedir/." "$to${sharedir#"$from"}/"
    mkdir -p "$(dirname "$to${includedir#"$from"}")"
    ln -s "$includedir" "$to${includedir#"$from"}"
    private_pg_config=$to${bindir#"$from"}/pg_config
    # A program that runs the server in its own way takes its place; it finds the server beside itself.
    if [[ -n ${WHISPERER_POSTGRES:-} ]]; then
        mv "${private_pg_config%/*}/postgres" "${private_pg_config%/*}/postgres.real"
        cp "$WHISPERER_POSTGRES" "${private_pg_config%/*}/postgres"
    fi
    # A whisperer of the system's must not show through: ours replaces the links.
    rm -f "$to${pkglibdir#"$from"}"/whisperer.so "$to${sharedir#"$from"}"/extension/whisperer*
    make -C "$root" --no-print-directory -s install PG_CONFIG="$private_pg_config" >/dev/null
}

# The longest directory that all arguments lie in.
common_directory() {
    local common=$1 path
    for path in "$@"; do
        while [[ $path/ != "$common"/* ]]; do common=${common%/*}; done
    done
    echo "$common"
}

# Starts a server in the stage with the extension preloaded: only a Unix socket, no TCP.
start_server() {
    local data=$stage/out/server
    as_user initdb -D "$data" -U postgres -A trust -N --no-locale -E UTF8 >"$stage/out/initdb.log"
    cat >>"$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$stage/socket'
fsync = off
timezone = UTC
log_line_prefix = '%m [%p] %b '
max_worker_processes = 32
max_prepared_transactions = 10
shared_preload_libraries = 'whisperer'
whisperer.allowed_networks = '127.0.0.0/8, ::1/128'
$*
CONF
    as_user pg_ctl -D "$data" -l "$stage/out/server.log" -w start >/dev/null || {
        cat "$stage/out/server.log" >&2
        return 1
    }
    export PGHOST=$stage/socket PGPORT=5432 PGDATABASE=postgres
}

stop_server() {
    if [[ -e $stage/out/server/postmaster.pid ]]; then
        as_user pg_ctl -D "$stage/out/server" -m "${1:-fast}" -w stop >/dev/null
    fi
}

# On the way out: no server stays, nor its files.  KEEP=1 keeps the files and says where.
remove_stage() {
    local status=$?
    trap '' INT TERM HUP
    # shellcheck disable=SC2046
    kill $(jobs -p) 2>/dev/null || true
    stop_server immediate || true
    # Servers of tests that were interrupted: an immediate shutdown for each.
    find "$stage/out" -name postmaster.pid -exec head -n 1 {} ';' 2>/dev/null | xargs -r kill -QUIT 2>/dev/null || true
    cd /
    if [[ -n ${KEEP:-} ]]; then
        echo "kept: $stage" >&2
    else
        # Twice: what was interrupted may still be writing.
        rm -rf "$stage" 2>/dev/null || { wait; rm -rf "$stage"; }
    fi
    exit "$status"
}
