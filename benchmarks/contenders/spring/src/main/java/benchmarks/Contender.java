package benchmarks;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.kafka.annotation.EnableKafka;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.config.ConcurrentKafkaListenerContainerFactory;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;
import org.springframework.messaging.handler.annotation.SendTo;

/**
 * Spring Kafka's ReplyingKafkaTemplate and a listener that replies: bytes only, with Spring's own headers and commits.
 * Run as "callee SCENE" or "caller SCENE"; see benchmarks/contenders/__init__.py.
 */
public final class Contender {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Duration PATIENCE = Duration.ofSeconds(60);
    private static final int VALUE_BYTES = 165;
    private static final BufferedReader STDIN =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));

    private Contender() {}

    public static void main(String[] arguments) throws Exception {
        Scene scene = JSON.readValue(arguments[1], Scene.class);
        if (arguments[0].equals("callee")) {
            answer(scene);
        } else {
            ask(scene);
        }
    }

    private static void answer(Scene scene) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", scene.bootstrapServers()))) {
            short replicas = 1;
            admin.createTopics(List.of(
                            new NewTopic(scene.requests(), scene.partitions(), replicas),
                            new NewTopic(scene.replies(), scene.partitions(), replicas)))
                    .all()
                    .get();
        }
        try (AnnotationConfigApplicationContext context = new AnnotationConfigApplicationContext()) {
            context.registerBean("scene", Scene.class, () -> scene);
            context.register(Callee.class);
            context.refresh();
            System.out.println("ready");
            while (STDIN.readLine() != null) {
                continue; // until the end, which tells it to stop
            }
        }
    }

    private static void ask(Scene scene) throws Exception {
        ContainerProperties replies = new ContainerProperties(scene.replies());
        replies.setGroupId("spring-callers-" + scene.name() + "-" + ProcessHandle.current().pid());
        KafkaMessageListenerContainer<byte[], byte[]> container =
                new KafkaMessageListenerContainer<>(consumers(scene, "latest"), replies);
        ReplyingKafkaTemplate<byte[], byte[], byte[]> template =
                new ReplyingKafkaTemplate<>(producers(scene), container);
        template.setDefaultReplyTimeout(PATIENCE);
        template.start();
        if (!template.waitForAssignment(PATIENCE)) {
            throw new IllegalStateException("the caller has no partitions of its replies' topic");
        }
        System.out.println("ready");
        for (String line = STDIN.readLine(); line != null; line = STDIN.readLine()) {
            Measurement measured = drive(JSON.readValue(line, Load.class), scene.requests(), template);
            System.out.println(JSON.writeValueAsString(measured));
        }
        template.stop();
        template.destroy();
    }

    private static Measurement drive(
            Load load, String requests, ReplyingKafkaTemplate<byte[], byte[], byte[]> template) throws Exception {
        Window window = new Window(load);
        Semaphore places = new Semaphore(load.inFlight());
        AtomicInteger numbers = new AtomicInteger();
        AtomicReference<Throwable> failure = new AtomicReference<>();
        byte[] value = new byte[VALUE_BYTES];
        while (!window.isClosed() && failure.get() == null) {
            if (!places.tryAcquire(1, TimeUnit.SECONDS)) {
                continue;
            }
            byte[] key = String.format("N%05d", numbers.getAndIncrement() % 100_000).getBytes(StandardCharsets.UTF_8);
            double sentAt = Window.now();
            template.sendAndReceive(new ProducerRecord<>(requests, key, value)).whenComplete((reply, error) -> {
                if (error != null) {
                    failure.set(error);
                } else {
                    window.answered(sentAt);
                }
                places.release();
            });
        }
        if (failure.get() != null) {
            throw new IllegalStateException("a request was not answered", failure.get());
        }
        // All are answered: the next load begins with none in flight.
        if (!places.tryAcquire(load.inFlight(), PATIENCE.toSeconds(), TimeUnit.SECONDS)) {
            throw new IllegalStateException("some requests have had no answer");
        }
        return window.measurement();
    }

    private static DefaultKafkaProducerFactory<byte[], byte[]> producers(Scene scene) {
        return new DefaultKafkaProducerFactory<>(Map.of(
                ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, scene.bootstrapServers(),
                ProducerConfig.ACKS_CONFIG, "all",
                ProducerConfig.LINGER_MS_CONFIG, 0,
                ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class,
                ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class));
    }

    private static DefaultKafkaConsumerFactory<byte[], byte[]> consumers(Scene scene, String reset) {
        Map<String, Object> properties = new HashMap<>();
        properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, scene.bootstrapServers());
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, reset);
        properties.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
        properties.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
        return new DefaultKafkaConsumerFactory<>(properties);
    }

    /** The service: Spring finds the listener, hands it each request, and sends what it returns to its caller. */
    @Configuration
    @EnableKafka
    static class Callee {
        @Bean
        ConcurrentKafkaListenerContainerFactory<byte[], byte[]> kafkaListenerContainerFactory(Scene scene) {
            ConcurrentKafkaListenerContainerFactory<byte[], byte[]> factory =
                    new ConcurrentKafkaListenerContainerFactory<>();
            factory.setConsumerFactory(consumers(scene, "earliest"));
            factory.setReplyTemplate(new KafkaTemplate<>(producers(scene)));
            return factory;
        }

        @KafkaListener(groupId = "spring-#{scene.name()}", topics = "#{scene.requests()}")
        @SendTo
        byte[] assignGate(byte[] request) {
            return request;
        }
    }
}
