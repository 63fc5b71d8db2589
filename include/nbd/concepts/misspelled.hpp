// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/names_member.hpp>

/// Common misspellings of the members and promises of a backend. A word that a class may well use
/// for something else is not among them.
namespace nbd::diagnosis {

struct misspelled {
    int wirte, wrtie, rwite, wite, wrte, wrie, writte, wriet, fush, flsh, fluh, flus, flsuh, fulsh,
        flussh, fllush, lfush, tirm, trm, trimm, rtim, write_zeros, write_zereos, write_zeroe,
        writezeroes, write_zeores, wirte_zeroes, wite_zeroes, cahce, cachee, chace, extens, extnets,
        exents, etxents, extetns, extennts, resise, resiz, reisze, rezise, rezize, rsize,
        blocksizes, blocks_sizes, block_sizs, blok_sizes, lned, ledn, lendfile, lend_fle, lend_fiel,
        lend_files, lend_to_write, lend_for_wirte, lend_for_writes, lend_for_writing, lendforwrite,
        metacontexts, meta_contextes, concurency, concurrancy, conccurrency, concurrecy, concurreny,
        concurrenccy, concurrencey, multiconn, multi_con, mutli_conn, muti_conn, multi_connection,
        can_multi_conn, rotationnal, rotationl, rotatonal, rotatational, fastzero, fast_zeroes,
        fast_zeros, can_fast_zero, fill_reads, fills_read, fils_reads, fillsreads, bloks, blcoks,
        blokcs, cancelable, canclable, cancellabe, canceleable, async_wirte, async_wite, async_fush,
        async_flsh, async_tirm, async_write_zeros, async_extens, async_cahce, abilites, abilties,
        abilitys, abillities, abilitites, abilitis, drian, darin, dran, drainn;
};

template <class T>
using with_misspelled = inherits_both<T, misspelled>;

/// `misspells_X<T>`: T has a member that is probably meant to be X.
template <class T>
concept misspells_write = inheritable<T> && !requires {
    &with_misspelled<T>::wirte;
    &with_misspelled<T>::wrtie;
    &with_misspelled<T>::rwite;
    &with_misspelled<T>::wite;
    &with_misspelled<T>::wrte;
    &with_misspelled<T>::wrie;
    &with_misspelled<T>::writte;
    &with_misspelled<T>::wriet;
};
template <class T>
concept misspells_flush = inheritable<T> && !requires {
    &with_misspelled<T>::fush;
    &with_misspelled<T>::flsh;
    &with_misspelled<T>::fluh;
    &with_misspelled<T>::flus;
    &with_misspelled<T>::flsuh;
    &with_misspelled<T>::fulsh;
    &with_misspelled<T>::flussh;
    &with_misspelled<T>::fllush;
    &with_misspelled<T>::lfush;
};
template <class T>
concept misspells_trim = inheritable<T> && !requires {
    &with_misspelled<T>::tirm;
    &with_misspelled<T>::trm;
    &with_misspelled<T>::trimm;
    &with_misspelled<T>::rtim;
};
template <class T>
concept misspells_write_zeroes = inheritable<T> && !requires {
    &with_misspelled<T>::write_zeros;
    &with_misspelled<T>::write_zereos;
    &with_misspelled<T>::write_zeroe;
    &with_misspelled<T>::writezeroes;
    &with_misspelled<T>::write_zeores;
    &with_misspelled<T>::wirte_zeroes;
    &with_misspelled<T>::wite_zeroes;
};
template <class T>
concept misspells_cache = inheritable<T> && !requires {
    &with_misspelled<T>::cahce;
    &with_misspelled<T>::cachee;
    &with_misspelled<T>::chace;
};
template <class T>
concept misspells_extents = inheritable<T> && !requires {
    &with_misspelled<T>::extens;
    &with_misspelled<T>::extnets;
    &with_misspelled<T>::exents;
    &with_misspelled<T>::etxents;
    &with_misspelled<T>::extetns;
    &with_misspelled<T>::extennts;
};
template <class T>
concept misspells_resize = inheritable<T> && !requires {
    &with_misspelled<T>::resise;
    &with_misspelled<T>::resiz;
    &with_misspelled<T>::reisze;
    &with_misspelled<T>::rezise;
    &with_misspelled<T>::rezize;
    &with_misspelled<T>::rsize;
};
template <class T>
concept misspells_block_sizes = inheritable<T> && !requires {
    &with_misspelled<T>::blocksizes;
    &with_misspelled<T>::blocks_sizes;
    &with_misspelled<T>::block_sizs;
    &with_misspelled<T>::blok_sizes;
};
template <class T>
concept misspells_abilities = inheritable<T> && !requires {
    &with_misspelled<T>::abilites;
    &with_misspelled<T>::abilties;
    &with_misspelled<T>::abilitys;
    &with_misspelled<T>::abillities;
    &with_misspelled<T>::abilitites;
    &with_misspelled<T>::abilitis;
};
template <class T>
concept misspells_drain = inheritable<T> && !requires {
    &with_misspelled<T>::drian;
    &with_misspelled<T>::darin;
    &with_misspelled<T>::dran;
    &with_misspelled<T>::drainn;
};
template <class T>
concept misspells_lend = inheritable<T> && !requires {
    &with_misspelled<T>::lned;
    &with_misspelled<T>::ledn;
};
template <class T>
concept misspells_lend_file = inheritable<T> && !requires {
    &with_misspelled<T>::lendfile;
    &with_misspelled<T>::lend_fle;
    &with_misspelled<T>::lend_fiel;
    &with_misspelled<T>::lend_files;
};
template <class T>
concept misspells_lend_for_write = inheritable<T> && !requires {
    &with_misspelled<T>::lend_to_write;
    &with_misspelled<T>::lend_for_wirte;
    &with_misspelled<T>::lend_for_writes;
    &with_misspelled<T>::lend_for_writing;
    &with_misspelled<T>::lendforwrite;
};
template <class T>
concept misspells_meta_contexts = inheritable<T> && !requires {
    &with_misspelled<T>::metacontexts;
    &with_misspelled<T>::meta_contextes;
};
template <class T>
concept misspells_concurrency = inheritable<T> && !requires {
    &with_misspelled<T>::concurency;
    &with_misspelled<T>::concurrancy;
    &with_misspelled<T>::conccurrency;
    &with_misspelled<T>::concurrecy;
    &with_misspelled<T>::concurreny;
    &with_misspelled<T>::concurrenccy;
    &with_misspelled<T>::concurrencey;
};
template <class T>
concept misspells_multi_conn = inheritable<T> && !requires {
    &with_misspelled<T>::multiconn;
    &with_misspelled<T>::multi_con;
    &with_misspelled<T>::mutli_conn;
    &with_misspelled<T>::muti_conn;
    &with_misspelled<T>::multi_connection;
    &with_misspelled<T>::can_multi_conn;
};
template <class T>
concept misspells_rotational = inheritable<T> && !requires {
    &with_misspelled<T>::rotationnal;
    &with_misspelled<T>::rotationl;
    &with_misspelled<T>::rotatonal;
    &with_misspelled<T>::rotatational;
};
template <class T>
concept misspells_fast_zero = inheritable<T> && !requires {
    &with_misspelled<T>::fastzero;
    &with_misspelled<T>::fast_zeroes;
    &with_misspelled<T>::fast_zeros;
    &with_misspelled<T>::can_fast_zero;
};
template <class T>
concept misspells_fills_reads = inheritable<T> && !requires {
    &with_misspelled<T>::fill_reads;
    &with_misspelled<T>::fills_read;
    &with_misspelled<T>::fils_reads;
    &with_misspelled<T>::fillsreads;
};
template <class T>
concept misspells_blocks = inheritable<T> && !requires {
    &with_misspelled<T>::bloks;
    &with_misspelled<T>::blcoks;
    &with_misspelled<T>::blokcs;
};
template <class T>
concept misspells_cancellable = inheritable<T> && !requires {
    &with_misspelled<T>::cancelable;
    &with_misspelled<T>::canclable;
    &with_misspelled<T>::cancellabe;
    &with_misspelled<T>::canceleable;
};
template <class T>
concept misspells_async = inheritable<T> && !requires {
    &with_misspelled<T>::async_wirte;
    &with_misspelled<T>::async_wite;
    &with_misspelled<T>::async_fush;
    &with_misspelled<T>::async_flsh;
    &with_misspelled<T>::async_tirm;
    &with_misspelled<T>::async_write_zeros;
    &with_misspelled<T>::async_extens;
    &with_misspelled<T>::async_cahce;
};

}  // namespace nbd::diagnosis
