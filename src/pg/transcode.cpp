#include "pg/prelude.hpp"

#include "pg/compat.hpp"
#include "pg/settings.hpp"
#include "pg/transcode.hpp"

extern "C" {
#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
}

namespace whisperer::pg {

core::Slice to_utf8(const char *text, int len) {
    char *converted = pg_server_to_any(text, len, PG_UTF8);
    return core::Slice{converted, converted == text ? (size_t)len : strlen(converted)};
}

core::Slice datum_to_utf8(Datum text) {
    struct varlena *value = PG_DETOAST_DATUM_PACKED(text);
    return to_utf8(VARDATA_ANY(value), (int)VARSIZE_ANY_EXHDR(value));
}

namespace {

// Valid UTF-8 in the database's encoding, or null where that cannot hold it.
char *from_utf8(core::Slice bytes) {
    int encoding = GetDatabaseEncoding();
    if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
        return pnstrdup(bytes.data, bytes.len);
    Oid conversion = FindDefaultConversionProc(PG_UTF8, encoding);
    if (!OidIsValid(conversion))
        return nullptr;
    size_t room = bytes.len * MAX_CONVERSION_GROWTH + 1;
    char *converted = (char *)palloc(room);
    int done = pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding, (unsigned char *)bytes.data,
                                             (int)bytes.len, (unsigned char *)converted, (int)room, true);
    return done == (int)bytes.len ? converted : nullptr;
}

char *escaped(core::Slice bytes, const char *note) {
    size_t note_size = strlen(note), size = core::escaped_size(bytes);
    char *text = (char *)palloc(note_size + size + 1);
    memcpy(text, note, note_size);
    core::write_escaped(bytes, text + note_size);
    text[note_size + size] = '\0';
    return text;
}

} // namespace

char *response_text(core::Slice bytes, bool truncated) {
    // Cut where the limit fell, possibly in the middle of a character.
    if (truncated)
        bytes.len = core::utf8_whole(bytes.view());
    char *text = bytes.len == 0 ? pstrdup("") : core::is_storable(bytes) ? from_utf8(bytes) : nullptr;
    if (text == nullptr)
        text = escaped(bytes, "[whisperer: not valid text, bytes escaped]\n");
    if (truncated)
        text = psprintf("%s\n[whisperer: the response was longer than %d bytes, the rest was not read]", text,
                        setting_max_response_size);
    return text;
}

char *headers_text(core::Slice lines) {
    char *whole = lines.len == 0 ? pstrdup("") : core::is_storable(lines) ? from_utf8(lines) : nullptr;
    if (whole != nullptr)
        return whole;
    StringInfoData text;
    initStringInfo(&text);
    for (const char *at = lines.data, *end = at + lines.len; at < end;) {
        const char *next = (const char *)memchr(at, '\n', (size_t)(end - at));
        next = next == nullptr ? end : next + 1;
        core::Slice line = {at, (size_t)(next - at)};
        char *kept = core::is_storable(line) ? from_utf8(line) : nullptr;
        if (kept == nullptr) {
            const char *colon = (const char *)memchr(at, ':', line.len);
            size_t name = colon == nullptr ? 0 : (size_t)(colon + 1 - at);
            appendStringInfoString(&text, escaped({at, name}, ""));
            kept = escaped({at + name, line.len - name}, " [whisperer: not valid text, bytes escaped]");
        }
        appendStringInfoString(&text, kept);
        at = next;
    }
    return text.data;
}

char *error_text(core::Slice bytes) {
    char *text = core::is_storable(bytes) ? from_utf8(bytes) : nullptr;
    return text == nullptr ? escaped(bytes, "") : text;
}

} // namespace whisperer::pg
