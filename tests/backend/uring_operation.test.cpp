// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/backend/uring_operation.hpp>

#include <array>
#include <vector>

using nbd::uring_operation;
using nbd::uring_operation_list;
using nbd::uring_request;

namespace {

std::array<std::byte, 100> memory;

uring_operation reading()
{
    return {uring_request::read(3, 1000, memory), nullptr};
}
int error_of(uring_operation& op)
{
    const auto said = op.outcome<std::error_code>();
    return said.value();
}
std::uint64_t address(std::size_t at)
{
    return reinterpret_cast<std::uintptr_t>(memory.data()) + at;
}

}  // namespace

TEST_CASE("backend/uring_operation: a submission has the values of its request")
{
    io_uring_sqe entry{};
    const auto written = [&](const uring_request& r) {
        std::fill_n(reinterpret_cast<char*>(&entry), sizeof entry, '\x55');
        r.write_to(entry);
    };
    written(uring_request::read(7, 4096, memory));
    CHECK(entry.opcode == IORING_OP_READ);
    CHECK(entry.fd == 7);
    CHECK(entry.off == 4096);
    CHECK(entry.addr == address(0));
    CHECK(entry.len == 100);
    CHECK(entry.rw_flags == 0);
    written(uring_request::write(7, 4096, memory, RWF_DSYNC));
    CHECK(entry.opcode == IORING_OP_WRITE);
    CHECK(entry.rw_flags == RWF_DSYNC);
    written(uring_request::sync(7));
    CHECK(entry.opcode == IORING_OP_FSYNC);
    CHECK(entry.fsync_flags == IORING_FSYNC_DATASYNC);
    written(uring_request::allocate(7, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5,
                                    std::uint64_t{1} << 40));
    CHECK(entry.opcode == IORING_OP_FALLOCATE);
    CHECK(entry.off == 5);
    CHECK(entry.addr == std::uint64_t{1} << 40);
    CHECK(entry.len == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE));
    written(uring_request::will_need(7, 5, 6));
    CHECK(entry.opcode == IORING_OP_FADVISE);
    CHECK(entry.off == 5);
    CHECK(entry.len == 6);
    CHECK(entry.fadvise_advice == POSIX_FADV_WILLNEED);
    // A length above 32 bits is transferred in pieces.
    written(uring_request::read(7, 0, {memory.data(), std::size_t{5} << 30}));
    CHECK(entry.len == 1U << 30);
}

TEST_CASE("backend/uring_operation: a short transfer continues behind the bytes that were moved")
{
    auto op = reading();
    CHECK(op.unfinished_after(30));
    CHECK(op.request.offset == 1030);
    CHECK(op.request.address == address(30));
    CHECK(op.request.length == 70);
    CHECK(op.unfinished_after(69));
    CHECK_FALSE(op.unfinished_after(1));
    CHECK(error_of(op) == 0);
}

TEST_CASE("backend/uring_operation: no progress is EIO, and so is direct I/O that cannot continue")
{
    auto op = reading();
    CHECK_FALSE(op.unfinished_after(0));
    CHECK(error_of(op) == EIO);

    auto direct = reading();
    CHECK(direct.unfinished_after(30));
    CHECK_FALSE(direct.unfinished_after(-EINVAL));
    CHECK(error_of(direct) == EIO);
    const auto heard = direct.outcome<nbd::failure>();
    CHECK(heard == std::errc::io_error);
    CHECK(heard.offset == 1030U);

    auto refused = reading();
    CHECK_FALSE(refused.unfinished_after(-EINVAL));
    CHECK(error_of(refused) == EINVAL);
    CHECK(refused.outcome<nbd::uring_answer>().begun);
}

TEST_CASE("backend/uring_operation: a refused operation is repeated a limited number of times")
{
    const auto error = GENERATE(EINTR, EAGAIN, ECANCELED);
    auto op = reading();
    for (int i = 1; i < 100; ++i)
        CHECK(op.unfinished_after(-error));
    CHECK(op.begun);
    CHECK_FALSE(op.unfinished_after(-error));
    CHECK(error_of(op) == error);
    const auto answer = op.outcome<nbd::uring_answer>();
    CHECK(answer.code.value() == error);
    CHECK_FALSE(answer.begun);

    auto called_off = reading();
    called_off.cancel_wanted = true;
    CHECK_FALSE(called_off.unfinished_after(-error));
    CHECK(error_of(called_off) == ECANCELED);
    CHECK(called_off.outcome<nbd::failure>() == std::errc::operation_canceled);
}

TEST_CASE("backend/uring_operation: a cancelled operation does not continue, but keeps its bytes")
{
    auto op = reading();
    op.cancel_wanted = true;
    CHECK_FALSE(op.unfinished_after(30));
    CHECK(error_of(op) == ECANCELED);
    auto whole = reading();
    whole.cancel_wanted = true;
    CHECK_FALSE(whole.unfinished_after(100));
    CHECK(error_of(whole) == 0);
    auto sync = uring_operation{uring_request::sync(3), nullptr};
    CHECK_FALSE(sync.unfinished_after(0));
    CHECK(error_of(sync) == 0);
}

TEST_CASE("backend/uring_operation: a list keeps its order, and any operation can be removed")
{
    using stage = uring_operation::stage;
    uring_operation a{{}, nullptr};
    uring_operation b{{}, nullptr};
    uring_operation c{{}, nullptr};
    uring_operation_list list;
    CHECK(list.empty());
    CHECK(list.pop() == nullptr);
    const auto all = [&] {
        for (auto* op : {&a, &b, &c})
            list.push(*op, stage::waiting);
    };
    for (auto* gone : {&a, &b, &c}) {
        all();
        list.remove(*gone);
        std::vector<uring_operation*> left;
        while (auto* const op = list.pop())
            left.push_back(op);
        CHECK(left.size() == 2);
        CHECK((left == std::vector{gone == &a ? &b : &a, gone == &c ? &b : &c}));
        CHECK(list.empty());
    }
    list.push(a, stage::finished);
    CHECK(a.at == stage::finished);
    CHECK(list.pop() == &a);
}
