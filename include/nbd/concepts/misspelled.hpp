// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/names_member.hpp>

/// Common misspellings of the members and promises of a backend, and of the members of an observer.
/// A word that a class may well use for something else is not among them.
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

// --- The events of an observer -------------------------------------------------------------------

struct misspelled_event {
    int at_conect, at_connet, at_conenct, at_conncet, at_connec, at_connects, at_connected,
        at_connection, at_opton, at_opion, at_optoin, at_otpion, at_optin, at_options,
        at_option_errors, at_option_eror, at_option_erorr, at_opton_error, at_options_error,
        at_optionerror, at_option_failure, at_export_open, at_export_opend, at_export_openend,
        at_export_openned, at_exprot_opened, at_exports_opened, at_exportopened, at_export, at_open,
        at_opened, at_requests, at_reqest, at_requst, at_reques, at_requets, at_reuqest,
        at_resquest, at_rquest, at_requested, at_replies, at_replys, at_repy, at_rely, at_repyl,
        at_rpely, at_repply, at_replied, at_response, at_errors, at_eror, at_errror, at_erorr,
        at_erro, at_err, at_failure, at_disconect, at_disconnet, at_diconnect, at_dissconnect,
        at_disconenct, at_disconncet, at_disconnec, at_disconnects, at_disconnected,
        at_disconnection, at_drain_errors, at_drain_eror, at_drain_erorr, at_drian_error,
        at_drains_error, at_drainerror, at_drain_failure, at_accept_errors, at_accept_eror,
        at_accept_erorr, at_acept_error, at_accpet_error, at_accepterror, at_accept_failure;
};
template <class T>
using with_misspelled_event = inherits_both<T, misspelled_event>;

template <class T>
concept misspells_at_connect = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_conect;
    &with_misspelled_event<T>::at_connet;
    &with_misspelled_event<T>::at_conenct;
    &with_misspelled_event<T>::at_conncet;
    &with_misspelled_event<T>::at_connec;
    &with_misspelled_event<T>::at_connects;
    &with_misspelled_event<T>::at_connected;
    &with_misspelled_event<T>::at_connection;
};
template <class T>
concept misspells_at_option = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_opton;
    &with_misspelled_event<T>::at_opion;
    &with_misspelled_event<T>::at_optoin;
    &with_misspelled_event<T>::at_otpion;
    &with_misspelled_event<T>::at_optin;
    &with_misspelled_event<T>::at_options;
};
template <class T>
concept misspells_at_option_error = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_option_errors;
    &with_misspelled_event<T>::at_option_eror;
    &with_misspelled_event<T>::at_option_erorr;
    &with_misspelled_event<T>::at_opton_error;
    &with_misspelled_event<T>::at_options_error;
    &with_misspelled_event<T>::at_optionerror;
    &with_misspelled_event<T>::at_option_failure;
};
template <class T>
concept misspells_at_export_opened = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_export_open;
    &with_misspelled_event<T>::at_export_opend;
    &with_misspelled_event<T>::at_export_openend;
    &with_misspelled_event<T>::at_export_openned;
    &with_misspelled_event<T>::at_exprot_opened;
    &with_misspelled_event<T>::at_exports_opened;
    &with_misspelled_event<T>::at_exportopened;
    &with_misspelled_event<T>::at_export;
    &with_misspelled_event<T>::at_open;
    &with_misspelled_event<T>::at_opened;
};
template <class T>
concept misspells_at_request = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_requests;
    &with_misspelled_event<T>::at_reqest;
    &with_misspelled_event<T>::at_requst;
    &with_misspelled_event<T>::at_reques;
    &with_misspelled_event<T>::at_requets;
    &with_misspelled_event<T>::at_reuqest;
    &with_misspelled_event<T>::at_resquest;
    &with_misspelled_event<T>::at_rquest;
    &with_misspelled_event<T>::at_requested;
};
template <class T>
concept misspells_at_reply = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_replies;
    &with_misspelled_event<T>::at_replys;
    &with_misspelled_event<T>::at_repy;
    &with_misspelled_event<T>::at_rely;
    &with_misspelled_event<T>::at_repyl;
    &with_misspelled_event<T>::at_rpely;
    &with_misspelled_event<T>::at_repply;
    &with_misspelled_event<T>::at_replied;
    &with_misspelled_event<T>::at_response;
};
template <class T>
concept misspells_at_error = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_errors;
    &with_misspelled_event<T>::at_eror;
    &with_misspelled_event<T>::at_errror;
    &with_misspelled_event<T>::at_erorr;
    &with_misspelled_event<T>::at_erro;
    &with_misspelled_event<T>::at_err;
    &with_misspelled_event<T>::at_failure;
};
template <class T>
concept misspells_at_disconnect = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_disconect;
    &with_misspelled_event<T>::at_disconnet;
    &with_misspelled_event<T>::at_diconnect;
    &with_misspelled_event<T>::at_dissconnect;
    &with_misspelled_event<T>::at_disconenct;
    &with_misspelled_event<T>::at_disconncet;
    &with_misspelled_event<T>::at_disconnec;
    &with_misspelled_event<T>::at_disconnects;
    &with_misspelled_event<T>::at_disconnected;
    &with_misspelled_event<T>::at_disconnection;
};
template <class T>
concept misspells_at_drain_error = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_drain_errors;
    &with_misspelled_event<T>::at_drain_eror;
    &with_misspelled_event<T>::at_drain_erorr;
    &with_misspelled_event<T>::at_drian_error;
    &with_misspelled_event<T>::at_drains_error;
    &with_misspelled_event<T>::at_drainerror;
    &with_misspelled_event<T>::at_drain_failure;
};
template <class T>
concept misspells_at_accept_error = inheritable<T> && !requires {
    &with_misspelled_event<T>::at_accept_errors;
    &with_misspelled_event<T>::at_accept_eror;
    &with_misspelled_event<T>::at_accept_erorr;
    &with_misspelled_event<T>::at_acept_error;
    &with_misspelled_event<T>::at_accpet_error;
    &with_misspelled_event<T>::at_accepterror;
    &with_misspelled_event<T>::at_accept_failure;
};
template <class T>
concept misspells_any_event = misspells_at_connect<T> || misspells_at_option<T>
    || misspells_at_option_error<T> || misspells_at_export_opened<T> || misspells_at_request<T>
    || misspells_at_reply<T> || misspells_at_error<T> || misspells_at_disconnect<T>
    || misspells_at_drain_error<T> || misspells_at_accept_error<T>;

}  // namespace nbd::diagnosis
