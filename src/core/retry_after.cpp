#include "core/retry_after.hpp"

#include <algorithm>
#include <string_view>

namespace whisperer::core {

namespace {

constexpr std::string_view months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
constexpr std::string_view short_days[] = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};
constexpr std::string_view long_days[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                          "Friday", "Saturday", "Sunday"};

struct Date {
    int year, month, day, hour, minute, second; // month 1 ... 12
};

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// Takes parts off the front of a text; one failure makes all later ones fail.
class Cursor {
  public:
    explicit Cursor(std::string_view text) : rest_(text) {}

    Cursor &literal(std::string_view expected) {
        ok_ = ok_ && rest_.substr(0, expected.size()) == expected;
        if (ok_)
            rest_.remove_prefix(expected.size());
        return *this;
    }

    template <size_t count> Cursor &one_of(const std::string_view (&names)[count], int *index = nullptr) {
        for (size_t i = 0; ok_ && i < count; i++) {
            if (rest_.substr(0, names[i].size()) == names[i]) {
                rest_.remove_prefix(names[i].size());
                if (index != nullptr)
                    *index = static_cast<int>(i);
                return *this;
            }
        }
        ok_ = false;
        return *this;
    }

    Cursor &digits(size_t count, int *value) {
        ok_ = ok_ && rest_.size() >= count && std::all_of(rest_.begin(), rest_.begin() + count, is_digit);
        *value = 0;
        for (size_t i = 0; ok_ && i < count; i++)
            *value = *value * 10 + (rest_[i] - '0');
        if (ok_)
            rest_.remove_prefix(count);
        return *this;
    }

    // asctime's day: two digits, or a space and one.
    Cursor &padded_day(int *value) {
        return !rest_.empty() && rest_[0] == ' ' ? literal(" ").digits(1, value) : digits(2, value);
    }

    Cursor &time(Date *date) {
        return digits(2, &date->hour)
            .literal(":")
            .digits(2, &date->minute)
            .literal(":")
            .digits(2, &date->second);
    }

    Cursor &month(Date *date) {
        int index = 0;
        one_of(months, &index);
        date->month = index + 1;
        return *this;
    }

    bool done() const { return ok_ && rest_.empty(); }

  private:
    std::string_view rest_;
    bool ok_ = true;
};

// Days since 1970-01-01 in the proleptic Gregorian calendar.
int64_t day_number(int64_t year, int month, int day) {
    // Years counted from March, so that the leap day is the last of its year.
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return 365 * y + y / 4 - y / 100 + y / 400 + day_of_year - 719468;
}

int64_t unix_seconds(const Date &date) {
    return ((day_number(date.year, date.month, date.day) * 24 + date.hour) * 60 + date.minute) * 60 +
           date.second;
}

bool exists(const Date &date) {
    constexpr int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (date.year % 4 == 0 && date.year % 100 != 0) || date.year % 400 == 0;
    int last = lengths[date.month - 1] + (date.month == 2 && leap ? 1 : 0);
    return date.day >= 1 && date.day <= last && date.hour <= 23 && date.minute <= 59 && date.second <= 60;
}

// A two-digit year that would be more than 50 years ahead means the century before (RFC 9110, section 5.6.7).
void complete_year(Date *date, int64_t now) {
    Date fifty_years_ahead = {2000, 1, 1, 0, 0, 0};
    int64_t days = now / 86400;
    int64_t current =
        1970 + days * 400 / 146097; // right but for the days around new year, which is near enough here
    fifty_years_ahead.year = static_cast<int>(current + 50);
    date->year += static_cast<int>(current / 100 * 100) + 100;
    while (date->year > fifty_years_ahead.year)
        date->year -= 100;
}

bool parse_date(std::string_view text, int64_t now, Date *date) {
    if (Cursor(text) // Sun, 06 Nov 1994 08:49:37 GMT
            .one_of(short_days)
            .literal(", ")
            .digits(2, &date->day)
            .literal(" ")
            .month(date)
            .literal(" ")
            .digits(4, &date->year)
            .literal(" ")
            .time(date)
            .literal(" GMT")
            .done())
        return exists(*date);
    if (Cursor(text) // Sunday, 06-Nov-94 08:49:37 GMT
            .one_of(long_days)
            .literal(", ")
            .digits(2, &date->day)
            .literal("-")
            .month(date)
            .literal("-")
            .digits(2, &date->year)
            .literal(" ")
            .time(date)
            .literal(" GMT")
            .done()) {
        complete_year(date, now);
        return exists(*date);
    }
    return Cursor(text) // Sun Nov  6 08:49:37 1994
               .one_of(short_days)
               .literal(" ")
               .month(date)
               .literal(" ")
               .padded_day(&date->day)
               .literal(" ")
               .time(date)
               .literal(" ")
               .digits(4, &date->year)
               .done() &&
           exists(*date);
}

int capped(int64_t seconds) {
    return seconds <= 0 ? -1 : static_cast<int>(std::min<int64_t>(seconds, max_retry_after_seconds));
}

} // namespace

int parse_retry_after(Slice value, int64_t now) noexcept {
    std::string_view text = value.view();
    auto blank = [](char c) { return c == ' ' || c == '\t'; };
    while (!text.empty() && blank(text.front()))
        text.remove_prefix(1);
    while (!text.empty() && blank(text.back()))
        text.remove_suffix(1);
    if (text.empty())
        return -1;
    if (std::all_of(text.begin(), text.end(), is_digit)) {
        int64_t seconds = 0;
        for (char digit : text)
            seconds = std::min<int64_t>(seconds * 10 + (digit - '0'), max_retry_after_seconds);
        return capped(seconds);
    }
    // A clock far outside the calendar's four-digit years would only overflow below.
    Date date{};
    if (now < 0 || now > INT64_C(253402300799) || !parse_date(text, now, &date))
        return -1;
    return capped(unix_seconds(date) - now);
}

} // namespace whisperer::core
