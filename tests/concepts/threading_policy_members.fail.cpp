// SPDX-License-Identifier: MIT
// A threading policy without one of its members, or with a wrong one.
// expect NO_MOVE: nbd: a threading policy needs a move constructor
// expect NO_EXECUTOR_TYPE: nbd: a threading policy needs `using executor_type`
// expect NO_BLOCKING: nbd: a threading policy needs `static constexpr bool blocking`
// expect VARIABLE_BLOCKING: nbd: a threading policy needs `static constexpr bool blocking`
// expect NO_START: nbd: a threading policy needs `void start()`
// expect NO_NEXT_EXECUTOR: nbd: a threading policy needs `executor_type next_executor()`
// expect OTHER_NEXT_EXECUTOR: nbd: a threading policy needs `executor_type next_executor()`
// expect NO_LAUNCH: nbd: a threading policy needs `template <class Session> void launch(
// expect THROWING_LAUNCH: nbd: a threading policy needs `template <class Session> void launch(
// expect NO_RUNS_HERE: nbd: a threading policy needs `bool runs_here()`
// expect NO_JOIN: nbd: a threading policy needs `void join()`
// expect NO_INNER_EXECUTOR_TYPE: nbd: a threading policy for an executor of the program needs
// expect NO_INNER_EXECUTOR: nbd: a threading policy for an executor of the program needs
// expect NO_GET_EXECUTOR: nbd: a threading policy for an executor of the program needs
#include <nbd/concepts/threading_policy.hpp>

struct executor {};

class runner {
public:
#ifdef NO_MOVE
    runner(const runner&) = delete;
#endif
#ifndef NO_EXECUTOR_TYPE
    using executor_type = executor;
#endif
#ifdef VARIABLE_BLOCKING
    static bool blocking;
#elif !defined(NO_BLOCKING)
    static constexpr bool blocking = true;
#endif
#ifndef NO_START
    void start();
#endif
#ifdef OTHER_NEXT_EXECUTOR
    int next_executor();
#elif !defined(NO_NEXT_EXECUTOR)
    executor next_executor();
#endif
#ifdef THROWING_LAUNCH
    template <class Session>
    void launch(const executor&, Session);
#elif !defined(NO_LAUNCH)
    template <class Session>
    void launch(const executor&, Session) noexcept;
#endif
#ifndef NO_RUNS_HERE
    bool runs_here();
#endif
#ifndef NO_JOIN
    void join();
#endif
    // For an executor of the program: all three or none.
#ifndef NO_INNER_EXECUTOR_TYPE
    using inner_executor_type = executor;
#endif
#ifndef NO_INNER_EXECUTOR
    executor inner_executor() const;
#endif
#ifndef NO_GET_EXECUTOR
    executor get_executor() const;
#endif
};

inline constexpr bool sound = nbd::diagnosis::policy_is_sound<runner, true>();
