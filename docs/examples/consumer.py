#!/usr/bin/env python3
"""Prints what a program writes to a record file, by columns: one JSON object a line.

    counterfoil schema proto /srv/pay/cards.dat > cards.proto     # once, where the files are captured
    pip install 'confluent-kafka[protobuf,schemaregistry]' grpcio-tools
    python -m grpc_tools.protoc -I. --python_out=. cards.proto
    python consumer.py --bootstrap kafka:9092 --topic counterfoil.hq.payments \
        --schema cards_pb2 --file /srv/pay/cards.dat

Whole units of work are printed, each once, whatever was sent twice or not to its end. To go on where it stopped, a consumer
stores the position of what it has done together with the result, and skips what isn't after it.
"""

import argparse
import importlib
import json
import sys

from confluent_kafka import Consumer, KafkaError


class Units:
    """Whole units of work, each once, from the events of one partition in their order."""

    def __init__(self, position=(0, 0, 0)):
        self.session = 0
        self.position = position
        self.unit = None
        self.events = []

    def take(self, event):
        """The events that are whole with this one."""
        if event.source.session < self.session:
            return []  # from a publisher that another one has replaced
        begins = event.source.session > self.session or event.op == 17  # OP_HEARTBEAT
        self.session = event.source.session
        position = (event.position.epoch, event.position.lsn, event.position.index)
        if begins or self.unit != event.unit.id or (self.events and position <= self.events[-1][0]):
            self.events = []  # what wasn't sent to its end is sent again
        if event.op == 17:
            return []
        if not event.HasField("unit"):
            self.unit, self.events = None, []
            whole = [(position, event)]
        else:
            self.unit = event.unit.id
            self.events.append((position, event))
            if not event.unit.last:
                return []
            whole, self.events = self.events[-event.unit.events:], []
            if len(whole) < event.unit.events:
                return []  # it began before where we did
        whole = [(at, event) for at, event in whole if at > self.position]
        self.position = max([self.position] + [at for at, _ in whole])
        return [event for _, event in whole]


def columns(message):
    """A row's columns by name. Those that aren't there have no value, or none that could be decoded."""
    def plain(field, value):
        if field.message_type:
            return [columns(row) for row in value]
        return value.hex() if isinstance(value, bytes) else value
    return {field.name: plain(field, value) for field, value in message.ListFields()}


def as_row(event, schema):
    def image(name):
        if not event.HasField(name):
            return None
        it = getattr(event, name)
        return {"columns": columns(it.typed), "bytes": len(it.data), "reason": it.reason or None}
    return {
        "op": schema.Op.Name(event.op).removeprefix("OP_").lower(),
        "record": event.record,
        "snapshot": event.snapshot,
        "before": image("before"),
        "after": image("after") if event.op == schema.OP_PUT else None,
    }


def decoder(arguments, schema):
    """From a message's value to a ChangeEvent."""
    if not arguments.registry:
        return lambda value: schema.ChangeEvent.FromString(value)
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
    from confluent_kafka.serialization import MessageField, SerializationContext
    client = SchemaRegistryClient({"url": arguments.registry})
    decode = ProtobufDeserializer(
        schema.ChangeEvent, {"subject.name.strategy.type": "TOPIC"}, client)
    return lambda value: decode(value, SerializationContext(arguments.topic, MessageField.VALUE))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--schema", required=True, help="module made of `counterfoil schema proto`")
    parser.add_argument("--file", help="only events of this file")
    parser.add_argument("--registry", help="address of the schema registry, for wire_format = \"confluent\"")
    parser.add_argument("--until-end", action="store_true", help="stop at the topic's end")
    arguments = parser.parse_args()

    schema = importlib.import_module(arguments.schema)
    decode = decoder(arguments, schema)
    consumer = Consumer({
        "bootstrap.servers": arguments.bootstrap,
        "group.id": f"{arguments.schema}-example",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    })
    consumer.subscribe([arguments.topic])
    partitions, parts = {}, {}
    while True:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            if message.error().code() != KafkaError._PARTITION_EOF:
                sys.exit(f"{arguments.topic}: {message.error()}")
            if arguments.until_end:
                break
            continue
        if message.value() is None:
            continue  # a tombstone: the delete before it was an event of its own
        headers = {name: value.decode() for name, value in message.headers() or []}
        value = message.value()
        if "chunk" in headers:
            # A part of an event that is larger than a message may be.
            name, number, count = headers["chunk"].rsplit("/", 2)
            gathered = parts.setdefault(message.partition(), {}).setdefault(name, {})
            gathered[int(number)] = value
            if len(gathered) < int(count):
                continue
            value = b"".join(gathered[at] for at in range(int(count)))
            parts.clear()
        units = partitions.setdefault(message.partition(), Units())
        for event in units.take(decode(value)):
            if event.HasField("file") and arguments.file in (None, event.file.path_text):
                print(json.dumps(as_row(event, schema)), flush=True)
    consumer.close()


if __name__ == "__main__":
    main()
