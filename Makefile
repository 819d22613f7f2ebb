# whisperer: build, install, test.  "make help" lists what there is to make.
#
# PGXS, PostgreSQL's build system for extensions, is the authority for whisperer.so; CMakeLists.txt
# builds only src/core and its unit tests, without PostgreSQL.  The file has three parts: what is
# built, PGXS, and the targets for developers, which are scripts in scripts/.

# ---- Where PostgreSQL is ----------------------------------------------------------------------
# PG_MAJOR chooses among the versions that Debian installs side by side; PG_CONFIG names any other.
PG_MAJOR ?= 15
PG_CONFIG ?= $(or $(wildcard /usr/lib/postgresql/$(PG_MAJOR)/bin/pg_config),$(shell command -v pg_config))
export PG_MAJOR PG_CONFIG

# ---- What is built ----------------------------------------------------------------------------
EXTENSION  = whisperer
MODULE_big = whisperer
OBJS       = $(patsubst %.cpp,%.o,$(sort $(wildcard src/core/*.cpp src/pg/*.cpp)))

# The one place of the version is the control file: it names the install script and is what the
# User-Agent header says.  (Not called VERSION: PGXS has a variable of that name.)
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" whisperer.control)
DATA_built  = whisperer--$(EXTVERSION).sql
SQL_PIECES  = $(sort $(wildcard src/sql/*.sql))
# Update scripts from older versions, when there are any, are kept in the tree as they are.
DATA        = $(wildcard src/sql/update/whisperer--*--*.sql)

# Everything is hidden but what src/pg marks as exported (_PG_init, worker mains, SQL functions).
LANGUAGE_FLAGS = -std=c++17 -fvisibility=hidden -fvisibility-inlines-hidden
PG_CPPFLAGS    = -Isrc -DWHISPERER_VERSION='"$(EXTVERSION)"'
# PostgreSQL's headers as system headers: they are C, and -Wextra and C++17 have opinions on them.
PG_CPPFLAGS   += -isystem $(shell '$(PG_CONFIG)' --includedir-server 2>/dev/null)
# -MMD -MP writes a .d beside each .o: the headers that it was made from.
PG_CXXFLAGS    = $(LANGUAGE_FLAGS) -Wall -Wextra -MMD -MP
# Warnings stop the build in CI; a newer compiler's warning shall not stop a user's.
ifneq ($(or $(CI),$(WERROR)),)
PG_CXXFLAGS   += -Werror
endif
# PostgreSQL links with the C compiler, which does not know of C++'s library.  Before glibc 2.34 timers
# were in a library of their own, librt.
SHLIB_LINK     = -lcurl -lssl -lcrypto -lstdc++ -lrt -Wl,--version-script=src/whisperer.map

# No LLVM bitcode unless asked for with "make WITH_LLVM=yes" (the same clang as PostgreSQL's is
# needed then).  Bitcode lets the JIT inline a function into a query; ours all go through SPI or the
# network, so there is nothing to gain, it compiles every file twice, and it needs a clang that not
# every machine with the server's headers has.
WITH_LLVM ?= no
override with_llvm = $(WITH_LLVM)

# pg_regress: each sql/NAME.sql is run and its output compared with expected/NAME.out.
REGRESS      = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
REGRESS_OPTS = --inputdir=. --dbname=contrib_regression

EXTRA_CLEAN  = build $(OBJS:.o=.d) $(OBJS:.o=.bc) results tmp_check compile_commands.json

# ---- PGXS -------------------------------------------------------------------------------------
# The developers' targets must work before PostgreSQL is there (they install it), so PGXS is read
# only when something else is wanted: all, install, uninstall, clean, installcheck, a file.
DEVELOPER_TARGETS = setup demo test test-core test-sanitize test-tsan test-regress test-pgtap test-tap test-long test-valgrind fuzz check pgbench-full bench bench-full \
                    format format-check tidy help
ifneq ($(filter-out $(DEVELOPER_TARGETS),$(or $(MAKECMDGOALS),all)),)
PGXS := $(shell '$(PG_CONFIG)' --pgxs 2>/dev/null)
ifeq ($(wildcard $(PGXS)),)
$(error PostgreSQL's server headers are not installed (no pg_config of version $(PG_MAJOR)): run "make setup", or set PG_CONFIG)
endif
include $(PGXS)

# Clang compiles the bitcode with flags of its own, without ours.
override BITCODE_CXXFLAGS += $(LANGUAGE_FLAGS)

# An object is made again when the flags, which live in this file, change.
$(OBJS): Makefile whisperer.control
$(MODULE_big)$(DLSUFFIX): src/whisperer.map
-include $(OBJS:.o=.d)

# The install script is the pieces in the order of their names.  Its first line stops psql, which
# would otherwise run the file as plain SQL, with MODULE_PATHNAME unreplaced.
$(DATA_built): $(SQL_PIECES) whisperer.control Makefile
	{ printf '%s\n' '\echo Use "CREATE EXTENSION whisperer" to load this file. \quit'; cat $(SQL_PIECES); } > $@.tmp
	mv $@.tmp $@

# Both kinds at once ("make clean test"): a developers' target gets a make of its own.  ("check" of
# that kind is PGXS's, which only says that it is not supported.)
$(filter $(filter-out check,$(DEVELOPER_TARGETS)),$(MAKECMDGOALS)):
	+@$(MAKE) --no-print-directory $@

else
# ---- For developers ---------------------------------------------------------------------------
.PHONY: $(DEVELOPER_TARGETS)

help:
	@echo 'make               build whisperer.so and the install script'
	@echo 'make install       install them into the PostgreSQL of PG_CONFIG'
	@echo 'make clean         remove what was built'
	@echo 'make setup         install what building and testing need (Debian packages, npm packages)'
	@echo 'make demo          show whisperer at work, on a private server: a minute'
	@echo 'make test          run every test, on private servers'
	@echo 'make check         the fast ones: source tree, unit tests, pg_regress'
	@echo 'make test-core     unit tests of src/core (GoogleTest)'
	@echo 'make test-sanitize the same under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make test-tsan     those of them that have threads under ThreadSanitizer'
	@echo 'make fuzz          the fuzzers, an hour each: FUZZ_SECONDS=3600; TESTS=test/fuzz/url_fuzz.cpp for some'
	@echo 'make test-regress  sql/ against expected/ (pg_regress)'
	@echo 'make test-pgtap    test/pgtap/*.sql (pgTAP)'
	@echo 'make test-tap      test/tap/*.t; TESTS="test/tap/001_*.t" for some of them'
	@echo 'make test-long     the fuzzers, ten minutes each, and the TAP tests with many repetitions: a night; TESTS=… for some of the latter'
	@echo 'make test-valgrind the suites with servers under valgrind, for hours; TESTS=… for some; PG_CONFIG, PG_SOURCE: see scripts/valgrind'
	@echo 'make pgbench-full  the pgbench test with 20,000 transactions'
	@echo 'make bench         measure, and print one table: a quarter of an hour; SCENARIO=throughput,tls for some of it'
	@echo 'make bench-full    the same with the scenarios of a million rows and more'
	@echo 'make format        clang-format the sources; format-check only looks'
	@echo 'make tidy          clang-tidy src/core and src/pg; TESTS=src/pg/wake.cpp for one'
	@echo 'Settings: PG_MAJOR=15, PG_CONFIG=…, WERROR=1, WITH_LLVM=yes, KEEP=1 (keep the private servers'\'' files)'

setup:
	@scripts/setup

demo: setup
	@scripts/demo

test: setup
	@scripts/test tree core sanitize tsan tidy fuzz regress pgtap tap

check: setup
	@scripts/test tree core regress

test-core test-sanitize test-tsan test-regress test-pgtap test-tap: setup
	@scripts/test $(@:test-%=%) $(TESTS)

# TAP tests that repeat or soak do it many times over when WHISPERER_LONG is set; each bounds itself. The fuzzers get ten
# minutes each.
test-long: setup
	@WHISPERER_LONG=1 FUZZ_SECONDS=$${FUZZ_SECONDS:-600} scripts/test $(if $(TESTS),tap,fuzz tap) $(TESTS)

# Valgrind is for those who ask for it; it needs the C library's symbols.
test-valgrind: setup
	@scripts/setup valgrind libc6-dbg
	@scripts/valgrind $(TESTS)

fuzz: setup
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-3600} scripts/test fuzz $(TESTS)

pgbench-full: setup
	@WHISPERER_PGBENCH_TRANSACTIONS=20000 scripts/test tap test/tap/010_pgbench.t

bench: setup
	@scripts/bench $(SCENARIO)

bench-full: setup
	@scripts/bench all

CXX_SOURCES = $(shell git ls-files -co --exclude-standard '*.cpp' '*.hpp')
format:
	clang-format -i $(CXX_SOURCES)

format-check:
	clang-format --dry-run --Werror $(CXX_SOURCES)

tidy: setup
	@scripts/test tidy $(TESTS)

endif
