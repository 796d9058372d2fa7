/* Where a device sits in this machine, as Linux tells in sysfs. */
#pragma once

struct dev_place {
    int numa;        /* node; -1 unknown */
    char cores[256]; /* the cores near it: "0-15,64-79"; "" unknown */
    char nic[64];    /* the InfiniBand or RoCE adapter with the longest way in common: "mlx5_3"; "" none */
};

/* `sys`: "/sys", but in tests; `address`: of the device on the PCI bus ("0000:17:00.0"). What is not told stays unknown. Local. */
void dev_place(const char *sys, const char *address, struct dev_place *out);
