// SPDX-License-Identifier: MIT
#pragma once

#include <utility>

namespace nbd {

/// A first-in, first-out queue of elements that link themselves by a member `T* behind`. It does
/// not own them and allocates nothing. *Thread safety*: none.
template <class T>
class intrusive_queue {
public:
    [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }
    void push(T& last) noexcept
    {
        last.behind = nullptr;
        (empty() ? first_ : last_->behind) = &last;
        last_ = &last;
    }
    /// Removes `t`. *Returns* false where it is not in the queue. *Complexity*: linear.
    bool remove(T& t) noexcept
    {
        intrusive_queue others;
        bool found = false;
        while (!empty()) {
            T& first = pop();
            if (&first == &t)
                found = true;
            else
                others.push(first);
        }
        *this = others;
        return found;
    }
    /// Removes the first element. Requires that the queue is not empty.
    [[nodiscard]] T& pop() noexcept { return *std::exchange(first_, first_->behind); }

private:
    T* first_ = nullptr;
    T* last_ = nullptr;
};

}  // namespace nbd
