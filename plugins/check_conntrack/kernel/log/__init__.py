"""What the kernel has written about lost connections, wherever it has been kept.

``messages`` knows the kernel's wording, ``events`` the value every source yields and how several
sources are brought together, ``kmsg``, ``journal`` and ``files`` one source each, and ``syslog``
the forms a line of a file takes. Nothing is imported here: a run that needs no log pays for none.
"""
