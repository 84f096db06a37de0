/*
 * A plugin of QEMU that counts the instructions of a nested guest: of a machine
 * that runs, with SVM, in the machine that QEMU emulates with one processor.
 *
 * Counting goes on from a VMRUN to the instruction behind it. Addresses in the
 * upper half are the kernel's. When a program in the outer machine executes
 * `xchg %bx, %bx`, the counts so far are written into the file that the option `to`
 * names: the instructions of programs and of the kernel, and the VMRUNs.
 *
 * QEMU's plugin interface, version 1, has what is declared here.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*on_translated)(uint64_t id, struct qemu_plugin_tb *);
typedef void (*on_executed)(unsigned int processor, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, on_translated);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, on_executed, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int operation, void *to, uint64_t value);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

enum { NO_REGISTERS = 0, ADD = 0 };
enum { PROGRAMS, KERNEL, KINDS };

int qemu_plugin_version = 1;

/* All instructions, those when the guest was entered last, and the guest's until then. */
static uint64_t all[KINDS], before[KINDS], guest[KINDS];
static uint64_t entries, behind_vmrun;
static int in_guest;
static FILE *file;

static void on_entry(unsigned int processor, void *data)
{
    memcpy(before, all, sizeof(all));
    in_guest = 1;
    entries++;
}

static void on_exit_of_guest(unsigned int processor, void *data)
{
    for (int kind = 0; in_guest && kind < KINDS; kind++)
        guest[kind] += all[kind] - before[kind];
    in_guest = 0;
}

static void on_request(unsigned int processor, void *data)
{
    if (in_guest)
        return;
    rewind(file);
    fprintf(file, "%020" PRIu64 " %020" PRIu64 " %020" PRIu64 "\n", guest[PROGRAMS], guest[KERNEL], entries);
    fflush(file);
}

static void on_block(uint64_t id, struct qemu_plugin_tb *block)
{
    for (size_t at = 0; at < qemu_plugin_tb_n_insns(block); at++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, at);
        const void *bytes = qemu_plugin_insn_data(insn);
        size_t size = qemu_plugin_insn_size(insn);
        uint64_t address = qemu_plugin_insn_vaddr(insn);
        int kind = address >> 63 ? KERNEL : PROGRAMS;

        if (address == behind_vmrun)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_exit_of_guest, NO_REGISTERS, NULL);
        qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD, &all[kind], 1);
        if (size == 3 && memcmp(bytes, "\x0f\x01\xd8", size) == 0) {
            behind_vmrun = address + size;
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_entry, NO_REGISTERS, NULL);
        }
        if (size == 3 && memcmp(bytes, "\x66\x87\xdb", size) == 0 && kind == PROGRAMS)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_request, NO_REGISTERS, NULL);
    }
}

int qemu_plugin_install(uint64_t id, const void *info, int count, char **options)
{
    for (int at = 0; at < count; at++)
        if (strncmp(options[at], "to=", 3) == 0)
            file = fopen(options[at] + 3, "w");
    if (!file) {
        fputs("count: the option `to` names no file that can be made\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    return 0;
}
