"""The kernel's messages of lost connections, from every place that keeps them.

messages  the kernel's wording
header    what stands before a message in its line: times, host, program, and whose words it is
stamps    dates in any order and language, time zones (calendar_words: the names)
structured  JSON, journal export, CSV and logfmt
syslog    one line of a log, by the four above
kmsg, journal  the ring buffer and the journal
files     log files: opening, decompress, scanner, rotation, part
events    the value that every source yields, and how sources are brought together
gather    the sources that a check asks for

Nothing is imported here: a run that reads no log does not pay for it.
"""
