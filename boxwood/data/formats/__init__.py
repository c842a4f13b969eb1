"""Readers and writers of other annotation formats, from and to COCO dictionaries; one file for each format."""
