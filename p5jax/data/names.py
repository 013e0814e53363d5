"""Names that commands offer; imports nothing, so that help is fast."""

HELD_OUT_SPLITS = ("validation", "test")
SPLITS = ("train", *HELD_OUT_SPLITS)
TFDS_FORMATS = ("array_record", "tfrecord")  # of files; TensorFlow writes and reads the second
