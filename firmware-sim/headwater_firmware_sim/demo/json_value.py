"""What `result.json` is made of."""

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
