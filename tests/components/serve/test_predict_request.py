import base64
import json

import pytest

from imgpipe.components.serve.predict_request import RequestError, parse_predict_request


def parse(content):
    return parse_predict_request(json.dumps(content).encode(), max_images=9, max_image_pixels=10_000)


def rejection(content):
    with pytest.raises(RequestError) as caught:
        parse(content)
    assert caught.value.status == 400
    return caught.value.reason


def test_base64_with_white_space_is_accepted_as_by_tensorflow_serving(photo):
    text = base64.encodebytes(photo).decode()
    assert "\n" in text
    assert parse({"instances": [{"image_bytes": {"b64": f" {text}"}}]}).images == (photo,)


def test_a_key_is_optional_and_by_default_the_number_of_the_image(photo):
    image = {"b64": base64.b64encode(photo).decode()}
    assert parse({"instances": [{"image_bytes": image, "key": "a"}, {"image_bytes": image}]}).keys == (
        "a",
        "1",
    )
    assert parse({"inputs": {"image_bytes": [image, image]}}).keys == ("0", "1")


def test_parameters_are_ignored_and_an_empty_signature_is_the_default(photo):
    row = {"image_bytes": {"b64": base64.b64encode(photo).decode()}}
    request = parse({"instances": [row], "parameters": {"confidenceThreshold": 0.5}, "signature_name": ""})
    assert request.signature == "serving_default"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (lambda data: "data:image/jpeg;base64," + base64.b64encode(data).decode(), "it is a data URI"),
        (lambda data: str(base64.b64encode(data)), "Python's notation of bytes"),
        (lambda data: base64.urlsafe_b64encode(data).decode(), "URL-safe alphabet"),
        (lambda data: base64.b64encode(data).decode()[:-5] + "?", "is not base64"),
    ],
    ids=["data URI", "Python", "URL-safe", "other"],
)
def test_text_that_is_not_base64_is_rejected_with_what_it_is(photo, text, reason):
    message = rejection({"instances": [{"image_bytes": {"b64": text(photo)}}]})
    assert message.startswith("instances[0].image_bytes is not base64")
    assert reason in message
