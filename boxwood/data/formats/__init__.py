"""Other formats of annotations, read as COCO dictionaries and written from them; one a file."""
