"""Commands that cli.py adds to its group, a file each: parse, one call, print."""
