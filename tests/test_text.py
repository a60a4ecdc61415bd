"""The section Text: durations, costs, ages, widths; text made safe for a terminal."""
import json
import random
import re
import unicodedata
import unittest

import twosignal
from tools import full, written

# Everything that could move the cursor, change colours or reorder text. It is written out here
# again: the tests must not share the product's own list.
CONTROLS = [chr(code) for code in list(range(0x20)) + list(range(0x7f, 0xa0))]
BIDI = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
SEPARATORS = ["\u2028", "\u2029"]
SURROGATES = ["\udc00", "\udfff", "\ud800", "\udbff"]       # in an order in which no two make one
UNSAFE = CONTROLS + BIDI + SEPARATORS + SURROGATES
LETTERS = "abcXYZ 019é東京한😀👩ǅ\u0301\u200b\u00ad\ufe0f" + "".join(UNSAFE)


def random_text(dice, longest=30):
    return "".join(dice.choice(LETTERS) for _ in range(dice.randrange(longest)))


class SeededCase(unittest.TestCase):
    """Random cases; the message of a failure names the seed."""

    def each(self, test, number):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(number):
                test(dice)


class EscapedText(SeededCase):
    def test_every_unsafe_character_is_escaped_in_text(self):
        """Row 35: no control character, bidirectional control or surrogate is left in text."""
        for character in UNSAFE:
            shown = twosignal.printable("a%sb" % character)
            self.assertNotIn(character, shown)
            self.assertRegex(shown, r"\Aa\\(x[0-9a-f]{2}|u[0-9a-f]{4})b\Z")
            self.assertEqual(int(re.sub(r"\Aa\\.|b\Z", "", shown), 16), ord(character))

    def test_escapes_have_the_documented_form(self):
        self.assertEqual(twosignal.printable("\x1b[31m"), "\\x1b[31m")
        self.assertEqual(twosignal.printable("a\u202eb\n"), "a\\u202eb\\x0a")

    def test_every_unsafe_character_is_escaped_in_json(self):
        """Row 35: JSON has them as \\u escapes, and stays the same value."""
        for character in UNSAFE:
            for ascii_only in (False, True):
                value = {"k" + character: ["v" + character]}
                text = twosignal.to_json(value, ascii_only=ascii_only)
                self.assertNotIn(character, text.replace("\n", ""))
                self.assertEqual(json.loads(text), value)
        self.assertIn("\\u001b", twosignal.to_json("\x1b"))
        self.assertIn("\\u202e", twosignal.to_json("\u202e"))
        self.assertIn("\\u009b", twosignal.to_json("\x9b"))
        self.assertIn("\\u007f", twosignal.to_json("\x7f"))

    def test_control_and_bidi_categories_of_unicode_are_covered(self):
        """Row 35: all that Unicode calls a control is escaped, not only what is in our list."""
        risky = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        for code in range(0x110000):
            character = chr(code)
            if (unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
                    or unicodedata.bidirectional(character) in risky):
                self.assertNotIn(character, twosignal.printable(character))

    def test_json_is_the_same_value(self):
        def check(dice):
            value = {random_text(dice): [random_text(dice), dice.random(), None, True]}
            value = json.loads(json.dumps(value))   # two halves that met are one character
            for levels in (0, 1, 6):
                self.assertEqual(json.loads(twosignal.to_json(value, levels)), value)
        self.each(check, 200)

    def test_printable_text_is_one_line_and_keeps_the_rest(self):
        def check(dice):
            text = random_text(dice)
            shown = twosignal.printable(text)
            self.assertEqual(len(shown.splitlines()) or 1, 1)
            self.assertFalse(set(shown) & set(UNSAFE))
            if not set(text) & set(UNSAFE):
                self.assertEqual(shown, text)
        self.each(check, 300)

    def test_other_values(self):
        self.assertEqual(twosignal.printable(None), "-")
        self.assertEqual(twosignal.printable(True), "true")
        self.assertEqual(twosignal.printable(7), "7")
        self.assertEqual(twosignal.printable({"a": ["東", None]}), '{"a": ["東", null]}')
        self.assertEqual(twosignal.printable({"a\x1b": "\x9b"}), '{"a\\u001b": "\\x9b"}')

    def test_streams_that_cannot_encode_a_character(self):
        self.assertEqual(written("─…█░│", "ascii"), "-...#.\\u2502")
        self.assertEqual(written("東 é", "latin-1"), "\\u6771 é")
        self.assertEqual(written("東", "utf-8"), "東")
        for encoding in ("ascii", "latin-1", "cp1252", "cp437", "utf-8"):
            with self.subTest(encoding=encoding):
                self.assertIsInstance(written("a東─\u2026", encoding), str)


class Widths(SeededCase):
    def test_known_widths(self):
        for text, columns in (("", 0), ("abc", 3), ("東京", 4), ("é", 1), ("e\u0301", 1),
                              ("😀", 2), ("한글", 4), ("─", 1), ("ﾊ", 1), ("Ａ", 2)):
            self.assertEqual(twosignal.display_width(text), columns, text)

    def test_what_a_terminal_shows_as_one_character(self):
        """The same with each Python, whatever its version of Unicode."""
        for text, columns in (
                ("\u1112\u1161\u11ab\u1100\u116e\u11a8", 4),      # decomposed Hangul
                ("\u1100\ud7b0\ud7cb", 2), ("e\u0301\u0308\u20dd", 1), ("か\u3099", 2),
                ("⚠\ufe0f", 2), ("✈\ufe0f", 2), ("❤\ufe0f", 2), ("1\ufe0f\u20e3", 2),
                ("©\ufe0f", 2), ("⚠", 1), ("a\ufe0f", 1), ("1\u20e3", 1),
                ("👍🏽", 2), ("☝🏽", 2), ("🏽", 2), ("a🏽", 3),
                ("👨\u200d👩\u200d👧", 2), ("🏳\ufe0f\u200d🌈", 2), ("🤦🏽\u200d♀\ufe0f", 2),
                ("❤\ufe0f\u200d🔥", 2), ("👩🏻\u200d🤝\u200d👨🏿", 2), ("a\u200db", 2),
                ("🇩🇪", 2), ("🇩🇪🇫🇷", 4), ("🇩", 2),
                ("\U0001f9ff", 2), ("\U0001fae8", 2), ("\U0001fabf", 2), ("\U00031350", 2),
                ("\u0378", 1), ("soft\xadhyphen", 11), ("\u200b\u2060", 0), ("…─→", 3)):
            self.assertEqual(twosignal.display_width(text), columns, ascii(text))
            self.assertEqual(twosignal.display_width(text + "x" + text), 2 * columns + 1)

    def test_no_sequence_is_cut_in_the_middle(self):
        parts = ["👨\u200d👩\u200d👧", "🇩🇪", "⚠\ufe0f", "👍🏽", "1\ufe0f\u20e3", "e\u0301\u0308",
                 "\u1112\u1161\u11ab", "東", "x"]

        def check(dice):
            chosen = [dice.choice(parts) for _ in range(dice.randrange(1, 30))]
            shown = twosignal.truncate("".join(chosen), dice.randrange(1, 20))
            self.assertIn(shown.rstrip("…"), ["".join(chosen[:end])
                                              for end in range(len(chosen) + 1)])
        self.each(check, 300)

    def test_widths_add_up(self):
        def check(dice):
            one = twosignal.printable(random_text(dice))
            other = twosignal.printable(random_text(dice))
            self.assertEqual(twosignal.display_width(one + "x" + other),
                             twosignal.display_width(one) + 1 + twosignal.display_width(other))
        self.each(check, 300)

    def test_a_flag_of_one_letter_is_truncated(self):
        self.assertEqual(twosignal.truncate("\U0001f1e6x\U0001f1e6x", 5), "\U0001f1e6x…")

    def test_truncated_text_fits_and_ends_with_an_ellipsis(self):
        def check(dice):
            text, columns = twosignal.printable(random_text(dice, 60)), dice.randrange(1, 40)
            shown = twosignal.truncate(text, columns)
            self.assertLessEqual(twosignal.display_width(shown), columns)
            if twosignal.display_width(text) <= columns:
                self.assertEqual(shown, text)
            else:
                self.assertTrue(shown.endswith("…") and text.startswith(shown[:-1]))
                # No room is wasted: a wide character that does not fit leaves one column at most.
                self.assertGreaterEqual(twosignal.display_width(shown), columns - 1)
        self.each(check, 500)


class AccentedLetters(unittest.TestCase):
    def test_both_forms_are_one(self):
        self.assertEqual(twosignal.to_nfc("e\u0301"), twosignal.to_nfc("\xe9"))

    def test_any_number_of_accents(self):
        """Unicode's own algorithm would not be done with these today."""
        text = "a" + "\u0301\u0316" * 1000000
        self.assertEqual(twosignal.to_nfc(text), text)


class Numbers(unittest.TestCase):
    def test_numbers(self):
        for value, expected in ((0, 0), (1.5, 1.5), ("0.0034", 0.0034), ("12", 12), (-1, -1),
                                ("1e-3", 0.001), (10 ** 18, 10 ** 18)):
            self.assertEqual(twosignal.to_number(value), expected)
        self.assertIsInstance(twosignal.to_number("12"), int)

    def test_values_that_are_no_numbers(self):
        for value in (None, True, False, "", " ", "abc", "NaN", "nan", "Infinity", "-inf", "0x10",
                      float("nan"), float("inf"), [], {}, [1], b"1", "1" * 5000, "1,5"):
            self.assertIsNone(twosignal.to_number(value), value)

    def test_underscores_are_not_part_of_a_number(self):
        self.assertIsNone(twosignal.to_number("1_000"))

    def test_no_number_is_shown_with_an_exponent(self):
        for value, shown in ((7.4e-05, "0.000074"), (-1e-7, "-0.0000001"), (1e16, "1" + "0" * 16),
                             (1e22, "1" + "0" * 22), (1.25e-10, "0.000000000125"), (0.5, "0.5"),
                             (3, "3"), (-2.0, "-2.0"), (5e-324, "0." + "0" * 323 + "5")):
            self.assertEqual(twosignal.plain_number(value), shown)
            self.assertEqual(twosignal.printable(value), shown)
            self.assertEqual(float(shown), value)
        self.assertEqual(twosignal.format_count(1e16), "10,000,000,000,000,000")
        self.assertEqual(twosignal.format_count("2.5e-7"), "0.00000025")
        self.assertEqual(twosignal.format_score(0.00001), "0.00001")
        self.assertEqual(twosignal.format_score(123456), "123456 (outside 0 to 1)")
        self.assertEqual(twosignal.format_percent(0.0000001), "0.00001%")
        self.assertEqual(twosignal.printable(True), "true")

    def test_counts(self):
        self.assertEqual(twosignal.format_count(46000), "46,000")
        self.assertEqual(twosignal.format_count("1250"), "1,250")
        self.assertEqual(twosignal.format_count(0), "0")
        for value in (None, "x", [], True):
            self.assertEqual(twosignal.format_count(value), "-")


def rising(dice, number):
    """Numbers from 0 upwards in ascending order, of every size that matters."""
    found = [0, 1, 99, 99.4, 99.5, 100, 949, 950, 999, 1000, 59949, 59950, 59999, 60000, 3599499,
             3599500, 3600000]
    found += [dice.random() * 10 ** dice.randrange(-12, 12) for _ in range(number)]
    return sorted(found)


class Durations(SeededCase):
    def test_documented_forms(self):
        for value, text in ((5, "5ms"), (0, "0ms"), (99, "99ms"), (800, "0.8s"), (1200, "1.2s"),
                            (4800, "4.8s"), (61000, "1m 01s"), (3720000, "1h 02m"),
                            ("1200", "1.2s"), (100, "0.1s"), (59900, "59.9s"), (60000, "1m 00s"),
                            (3599000, "59m 59s"), (3600000, "1h 00m"), (360000000, "100h 00m")):
            self.assertEqual(twosignal.format_duration(value), text)

    def test_values_that_are_no_durations(self):
        for value in (None, -1, "x", [], {}, True, float("nan")):
            self.assertEqual(twosignal.format_duration(value), "-")

    def test_sixty_seconds_or_minutes_are_never_shown(self):
        def check(dice):
            for value in rising(dice, 200):
                self.assertNotRegex(twosignal.format_duration(value), r"\b60(\.0)?(s|m\b)|1000ms")
        self.each(check, 1)

    def test_longer_is_never_shown_as_shorter(self):
        def check(dice):
            shown = [self.milliseconds(twosignal.format_duration(value))
                     for value in rising(dice, 400)]
            self.assertEqual(shown, sorted(shown))
        self.each(check, full(1, 20))

    def test_rounding_is_small(self):
        def check(dice):
            for value in rising(dice, 400):
                shown = self.milliseconds(twosignal.format_duration(value))
                step = 1 if value < 99.5 else 100 if value < 59950 else (
                    1000 if value < 3599500 else 60000)
                self.assertLessEqual(abs(shown - value), step + 500, value)
        self.each(check, 1)

    @staticmethod
    def milliseconds(text):
        units = {"ms": 1, "s": 1000, "m": 60000, "h": 3600000}
        parts = re.findall(r"([\d.]+)(ms|s|m|h)", text)
        return sum(round(float(amount) * units[unit]) for amount, unit in parts)


HUGE = 10 ** 399


class Costs(SeededCase):
    def test_documented_forms(self):
        for value, text in ((0.003, "$0.003"), (0.0034, "$0.0034"), (12.5, "$12.50"),
                            (0.012, "$0.012"), ("0.0034", "$0.0034"), (0, "$0.00"), (1, "$1.00"),
                            (0.1, "$0.10"), (0.00001, "$0.00001"), (-0.5, "-$0.50"),
                            (1234.567, "$1234.57")):
            self.assertEqual(twosignal.format_cost(value), text)

    def test_values_that_are_no_costs(self):
        for value in (None, "", "x", [], {}, True, "NaN", float("inf")):
            self.assertEqual(twosignal.format_cost(value), "-")

    def test_more_is_never_shown_as_less(self):
        def check(dice):
            values = rising(dice, 400)
            shown = [float(twosignal.format_cost(value)[1:]) for value in values]
            self.assertEqual(shown, sorted(shown))
            for value, text in zip(values, shown):
                self.assertLessEqual(abs(text - value), max(0.0051, value * 1e-9))
        self.each(check, full(1, 20))

    def test_a_small_cost_is_never_shown_as_zero(self):
        def check(dice):
            value = dice.uniform(1, 9.99) * 10 ** dice.randrange(-10, 3)
            self.assertNotEqual(float(twosignal.format_cost(value)[1:]), 0)
            self.assertRegex(twosignal.format_cost(value), r"\A\$\d+\.\d\d+\Z")
        self.each(check, 300)

    def test_numbers_of_any_size(self):
        for value in (HUGE, -HUGE, 1e308, 5e-324, "9" * 300):
            for function in (twosignal.format_cost, twosignal.format_duration,
                             twosignal.format_count):
                with self.subTest(function=function.__name__, value=str(value)[:20]):
                    self.assertRegex(function(value), r"\A[-$\d.,a-z +]+\Z")


class AgesAndTimestamps(SeededCase):
    NOW = 1773484200        # 2026-03-14T10:30:00Z

    def timestamp(self, seconds):
        return twosignal.iso_timestamp(self.NOW - seconds)

    def test_documented_ages(self):
        for seconds, text in ((0, "just now"), (59, "just now"), (120, "2 min ago"),
                              (60, "1 min ago"), (3599, "59 min ago"), (3600, "1 hour ago"),
                              (3 * 3600, "3 hours ago"), (86399, "23 hours ago"),
                              (86400, "1 day ago"), (5 * 86400, "5 days ago"),
                              (29 * 86400, "29 days ago"), (30 * 86400, "2026-02-12"),
                              (400 * 86400, "2025-02-07")):
            self.assertEqual(twosignal.format_age(self.timestamp(seconds), self.NOW), text)

    def test_timestamps_in_the_future(self):
        for seconds in (-1, -60, -86400, -10 ** 9):
            self.assertEqual(twosignal.format_age(self.timestamp(seconds), self.NOW), "just now")

    def test_values_that_are_no_timestamps(self):
        for value, text in ((None, "-"), (5, "5"), ("soon", "soon"), ("\x1b", "\\x1b"),
                            ("2026-99-01T00:00:00Z", "2026-99-01T00:00:00Z")):
            self.assertEqual(twosignal.format_age(value, self.NOW), text)

    def test_older_is_never_shown_as_younger(self):
        units = {"min": 60, "hour": 3600, "hours": 3600, "day": 86400, "days": 86400}

        def seconds(text):
            if text == "just now":
                return 0
            if text.endswith(" ago"):
                amount, unit, _ = text.split()
                return int(amount) * units[unit]
            return self.NOW - twosignal.parse_timestamp(text + "T23:59:59Z")

        def check(dice):
            ages = sorted(dice.random() * 10 ** dice.randrange(1, 9) for _ in range(300))
            shown = [seconds(twosignal.format_age(self.timestamp(age), self.NOW)) for age in ages]
            for age, text in zip(ages, shown):
                self.assertLessEqual(text, age + 1)
            self.assertEqual(shown, sorted(shown))
        self.each(check, full(1, 20))

    def test_timestamps(self):
        for wire, shown in (
                ("2026-03-14T10:30:00.000Z", "2026-03-14T10:30:00Z"),
                ("2026-03-14T10:30:00Z", "2026-03-14T10:30:00Z"),
                ("2026-03-14T10:30:00.123Z", "2026-03-14T10:30:00.123Z"),
                ("2026-03-14T10:30:00.100Z", "2026-03-14T10:30:00.100Z"),
                ("2026-03-14T10:30:00.123456Z", "2026-03-14T10:30:00.123456Z"),
                ("2026-03-14T12:30:00+02:00", "2026-03-14T10:30:00Z"),
                ("2026-03-14T00:30:00.5-0230", "2026-03-14T03:00:00.5Z"),
                ("1969-12-31T23:59:59.500Z", "1969-12-31T23:59:59.500Z"),
                ("2024-02-29T00:00:00.000Z", "2024-02-29T00:00:00Z")):
            self.assertEqual(twosignal.utc_timestamp(wire), shown)

    def test_fractions_of_any_length_are_kept(self):
        for wire in ("2026-03-14T10:30:00.9999999Z", "2026-03-14T10:30:00.999999999Z",
                     "2026-12-31T23:59:59.999999999Z"):
            self.assertEqual(twosignal.utc_timestamp(wire), wire)

    def test_the_first_and_last_years(self):
        for wire in ("0001-01-01T00:00:00Z", "0999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"):
            self.assertEqual(twosignal.utc_timestamp(wire), wire)

    def test_text_that_is_no_timestamp_stays_as_it_is(self):
        for value in ("", "x", "2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "2026-03-14",
                      "0000-01-01T00:00:00Z", "2026-03-14T25:00:00Z", "2026-03-14T10:99:00Z",
                      "2026-03-14T10:30:00Zx", "2026-03-14T10:30:00Z\n", "٢٠٢٦-٠٣-١٤T10:30:00Z",
                      "0001-01-01T00:00:00+14:00", "2026-03-14T10:30:00+99:99"):
            self.assertEqual(twosignal.utc_timestamp(value), value)

    def test_conversion_is_idempotent(self):
        def check(dice):
            zone = dice.choice(["Z", "", "+05:30", "-0800"])
            wire = "%04d-%02d-%02dT%02d:%02d:%02d.%03d%s" % (
                dice.randrange(1000, 9999), dice.randrange(1, 13), dice.randrange(1, 29),
                dice.randrange(24), dice.randrange(60), dice.randrange(60), dice.randrange(1000),
                zone)
            shown = twosignal.utc_timestamp(wire)
            self.assertEqual(twosignal.utc_timestamp(shown), shown)
            self.assertAlmostEqual(twosignal.parse_timestamp(shown),
                                   twosignal.parse_timestamp(wire), 2)
        self.each(check, 300)

    def test_any_value_has_an_iso_text(self):
        for value in (HUGE, -HUGE, 1e300, float("nan"), None, "x"):
            self.assertIsInstance(twosignal.iso_timestamp(value), str)
