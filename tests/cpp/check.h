// SPDX-License-Identifier: Apache-2.0
// What the C++ tests need of a test framework: comparisons that name what they compare, and a count.
#ifndef YHW_TESTS_CHECK_H_
#define YHW_TESTS_CHECK_H_

#include <iostream>
#include <type_traits>

namespace check {

inline int& failures() {
  static int count = 0;
  return count;
}

inline long& comparisons() {
  static long count = 0;
  return count;
}

template <typename Got, typename Want>
void equal(const Got& got, const Want& want, const char* text, int line, long long where) {
  using Common = std::common_type_t<Got, Want>;
  ++comparisons();
  if (static_cast<Common>(got) != static_cast<Common>(want)) {
    constexpr int kShown = 20;
    if (++failures() <= kShown) {
      std::cerr << "line " << line << " [" << where << "]: " << text << ": got " << +got << ", expected " << +want
                << "\n";
    }
  }
}

// The exit code: a test that compares nothing fails, too.
inline int result() {
  std::cout << comparisons() << " comparisons, " << failures() << " failures\n";
  return failures() == 0 && comparisons() > 0 ? 0 : 1;
}

}  // namespace check

// `where` is any number that helps to find the case, such as the input.
#define CHECK_EQUAL(got, want, where) check::equal((got), (want), #got, __LINE__, static_cast<long long>(where))

#define CHECK_THROWS(expression)             \
  do {                                       \
    bool thrown = false;                     \
    try {                                    \
      (void)(expression);                    \
    } catch (const std::invalid_argument&) { \
      thrown = true;                         \
    }                                        \
    CHECK_EQUAL(thrown, true, 0);            \
  } while (false)

#endif  // YHW_TESTS_CHECK_H_
