from imgpipe.components.common.plural import plural


def test_the_noun_agrees_with_the_count():
    assert [plural(count, "image") for count in (0, 1, 2_000)] == ["0 images", "1 image", "2,000 images"]
